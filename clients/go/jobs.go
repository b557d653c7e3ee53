package stepwell

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// JobOption is an option of StartJob.
type JobOption func(*pb.StartJobRequest)

// WithUniqueKey gives the job the caller's name for it: unique among the namespace's open jobs.
func WithUniqueKey(key string) JobOption { return func(r *pb.StartJobRequest) { r.UniqueKey = key } }

// WithJobQueue names the queue in which the job waits. Default: "default".
func WithJobQueue(queue string) JobOption { return func(r *pb.StartJobRequest) { r.TaskQueue = queue } }

// WithJob changes the request itself, for what has no option of its own.
func WithJob(change func(*pb.StartJobRequest)) JobOption { return change }

// Job is a handle of one job: an activity without a run.
type Job struct {
	client *Client
	id     string
}

// StartJob has an activity performed, without a run. It is recorded when this returns.
func (c *Client) StartJob(ctx context.Context, activity string, input any, options ...JobOption) (*Job, error) {
	payload, err := c.options.converter.ToPayload(input)
	if err != nil {
		return nil, err
	}
	request := &pb.StartJobRequest{Namespace: c.options.namespace, Type: activity, Input: payload}
	for _, option := range options {
		option(request)
	}
	if request.RequestId == "" {
		if request.JobId == "" {
			request.JobId = uuid7()
		}
		request.RequestId = request.JobId
	}
	answer, err := invoke(ctx, c, c.Jobs.StartJob, request)
	if err != nil {
		return nil, err
	}
	return &Job{client: c, id: answer.GetJobId()}, nil
}

// Job gives a handle of a job by its id. Nothing is asked of the service.
func (c *Client) Job(id string) *Job { return &Job{client: c, id: id} }

// ID is the job's own, a UUID.
func (j *Job) ID() string { return j.id }

// Result waits for the end of the job, and reads what it came to into what target points to (nil: it is not looked at).
// Gives a *RunError if it did not end well.
func (j *Job) Result(ctx context.Context, target any) error {
	for {
		request := &pb.WaitJobRequest{
			Namespace: j.client.options.namespace, JobId: j.id, Wait: durationpb.New(15 * time.Second),
		}
		answer, err := invoke(ctx, j.client, j.client.Jobs.WaitJob, request)
		if err != nil {
			return err
		}
		if !answer.GetEnded() {
			continue
		}
		job := answer.GetJob()
		if job.GetState() == pb.JobState_JOB_STATE_COMPLETED {
			return read(j.client.options.converter, job.GetResult(), target)
		}
		how := strings.TrimPrefix(job.GetState().String(), "JOB_STATE_")
		return &RunError{ID: j.id, Ended: how, Failure: job.GetFailure()}
	}
}

// Describe reads the job as it is.
func (j *Job) Describe(ctx context.Context) (*pb.Job, error) {
	request := &pb.GetJobRequest{Namespace: j.client.options.namespace, JobId: j.id}
	answer, err := invoke(ctx, j.client, j.client.Jobs.GetJob, request)
	return answer.GetJob(), err
}

// Cancel asks the job to end. False if it had ended.
func (j *Job) Cancel(ctx context.Context, reason string) (bool, error) {
	request := &pb.CancelJobRequest{Namespace: j.client.options.namespace, JobId: j.id, Reason: reason}
	answer, err := invoke(ctx, j.client, j.client.Jobs.CancelJob, request)
	return answer.GetAccepted(), err
}
