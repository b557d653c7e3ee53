package stepwell

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// JobOption is an option of StartJob.
type JobOption func(*pb.StartJobRequest)

// WithUniqueKey gives the job the caller's name for it: unique among the namespace's open jobs.
func WithUniqueKey(key string) JobOption { return func(r *pb.StartJobRequest) { r.UniqueKey = key } }

// WithJobQueue names the queue in which the job waits. Default: "default".
func WithJobQueue(queue string) JobOption { return func(r *pb.StartJobRequest) { r.TaskQueue = queue } }

// WithJobDelay begins the job no sooner than so long after its start. Its timeouts count from then.
func WithJobDelay(delay time.Duration) JobOption {
	return func(r *pb.StartJobRequest) { r.StartDelay = durationpb.New(delay) }
}

// WithJobPriority says which tasks go first: 0 to 9, higher first. Default: 4.
func WithJobPriority(priority int) JobOption {
	return func(r *pb.StartJobRequest) { r.Priority = proto.Int32(int32(priority)) }
}

// WithJobRetry says when and how often to try again. Default: without limit, from 1 s, doubling, up to 100 s.
func WithJobRetry(policy RetryPolicy) JobOption {
	return func(r *pb.StartJobRequest) { r.Retry = policy.spell() }
}

// JobTimeouts are the times that a job may take. 0: no limit.
type JobTimeouts struct {
	// ScheduleToStart is the longest wait in its queue for its first attempt; not retried.
	ScheduleToStart time.Duration
	// ScheduleToClose is the longest time for all attempts together; not retried.
	ScheduleToClose time.Duration
	// StartToClose is the longest time for one attempt; retried.
	StartToClose time.Duration
	// Heartbeat is the longest time between heartbeats; retried.
	Heartbeat time.Duration
}

// WithJobTimeouts bounds the job's attempts, and the times between.
func WithJobTimeouts(timeouts JobTimeouts) JobOption {
	return func(r *pb.StartJobRequest) {
		r.ScheduleToStartTimeout = durationOf(timeouts.ScheduleToStart)
		r.ScheduleToCloseTimeout = durationOf(timeouts.ScheduleToClose)
		r.StartToCloseTimeout = durationOf(timeouts.StartToClose)
		r.HeartbeatTimeout = durationOf(timeouts.Heartbeat)
	}
}

// WithJob changes the request itself, for what has no option of its own: its policies, how long it is kept, a request id
// that makes a repeat safe by another process too.
func WithJob(change func(*pb.StartJobRequest)) JobOption { return change }

// Job is a handle of one job: an activity without a run. It is safe for use by several goroutines.
type Job struct {
	client    *Client
	id        string
	uniqueKey string
	started   bool
	expected  *awaited
}

// StartJob has an activity performed, without a run. It is recorded when this returns. Starts of several goroutines go
// out together. A repeat after a lost answer is recognised, so that nothing is started twice. An open job of the same
// unique key gives an error that is ErrUniqueKeyInUse, unless the conflict policy says otherwise.
func (c *Client) StartJob(ctx context.Context, activity string, input any, options ...JobOption) (*Job, error) {
	payload, err := c.options.converter.ToPayload(input)
	if err != nil {
		return nil, err
	}
	request := &pb.StartJobRequest{Type: activity, Input: payload}
	for _, option := range options {
		option(request)
	}
	var expected *awaited
	if request.RequestId == "" && request.JobId == "" {
		request.JobId, expected = c.jobEnds.expect()
	}
	request.RequestId = orElse(request.RequestId, request.JobId)
	answer, err := c.jobStarts.submit(ctx, request)
	if err != nil || !answer.GetStarted() {
		// What it found may have ended before anybody looked.
		c.jobEnds.forget(expected)
		expected = nil
	}
	if err != nil {
		return nil, err
	}
	return &Job{
		client: c, id: answer.GetJobId(), uniqueKey: request.GetUniqueKey(), started: answer.GetStarted(), expected: expected,
	}, nil
}

// Job gives a handle of a job by its id. Nothing is asked of the service.
func (c *Client) Job(id string) *Job { return &Job{client: c, id: id} }

// ID is the job's own, a UUID.
func (j *Job) ID() string { return j.id }

// UniqueKey is the caller's name for it, as far as the handle knows.
func (j *Job) UniqueKey() string { return j.uniqueKey }

// Started tells whether the start that gave this handle began the job. False if it found one: an open job of the same
// unique key, or what a start of the same request id had begun.
func (j *Job) Started() bool { return j.started }

// Result waits for the end of the job, and reads what it came to into what target points to (nil: it is not looked at).
// Gives a *RunError if it did not end well, and one that is ErrJobNotFound if there is none. One stream serves all waits
// of a client.
func (j *Job) Result(ctx context.Context, target any) error {
	end, err := j.client.jobEnds.wait(ctx, j.id, j.expected)
	if err != nil {
		return err
	}
	return end.read(j.client.options.converter, target)
}

// Describe reads the job as it is.
func (j *Job) Describe(ctx context.Context) (*pb.Job, error) {
	request := &pb.GetJobRequest{Namespace: j.client.options.namespace, JobId: j.id}
	answer, err := invoke(ctx, j.client, j.client.Jobs.GetJob, request)
	return answer.GetJob(), err
}

// Cancel asks the job to end; a worker that is at it is told. False if it had ended, or had been asked before.
func (j *Job) Cancel(ctx context.Context, reason string) (bool, error) {
	request := &pb.CancelJobRequest{
		Namespace: j.client.options.namespace, JobId: j.id, Reason: reason, RequestId: uuid7(""),
	}
	answer, err := invoke(ctx, j.client, j.client.Jobs.CancelJob, request)
	return answer.GetAccepted(), err
}

// Retry begins the job anew, if it has failed. Otherwise it gives an error whose reason is JOB_NOT_FAILED.
func (j *Job) Retry(ctx context.Context) error {
	request := &pb.RetryJobRequest{Namespace: j.client.options.namespace, JobId: j.id, RequestId: uuid7("")}
	_, err := invoke(ctx, j.client, j.client.Jobs.RetryJob, request)
	return err
}
