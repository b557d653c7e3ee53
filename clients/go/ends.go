package stepwell

import (
	"context"
	"iter"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// endWait is one call's wait for an end; a call is given up and repeated later than that.
const endWait = 15 * time.Second

// ended is how something ended.
type ended struct {
	id        string
	next      string
	how       string
	completed bool
	purged    bool
	omitted   bool
	result    *pb.Payload
	failure   *pb.Failure
}

func (e *ended) read(converter Converter, target any) error {
	switch {
	case e.purged:
		return &RunError{ID: e.id, Ended: "PURGED"}
	case !e.completed:
		return &RunError{ID: e.id, Ended: e.how, Failure: e.failure}
	}
	return read(converter, e.result, target)
}

// source is where ends of one kind of thing come from.
type source interface {
	// follow streams ends from a cursor until it fails; each message's ends come with the cursor behind them.
	follow(ctx context.Context, cursor string, told func(ends []*ended, cursor string)) error
	// look reads the end of one, nil if it goes on.
	look(ctx context.Context, id string) (*ended, error)
	// wait waits a while for the end of one, by a call of its own.
	wait(ctx context.Context, id string) (*ended, error)
}

// WatchRuns follows the ends of the namespace's runs from now on, over streams that come and go. It ends with an error:
// the context's, or that of the service when it refuses for good.
func (c *Client) WatchRuns(ctx context.Context) iter.Seq2[*pb.WatchRunsResponse_End, error] {
	return news(ctx, c, func(ctx context.Context, cursor string, told func([]*pb.WatchRunsResponse_End, string) bool) error {
		return runEnds{c}.messages(ctx, cursor, told)
	})
}

// WatchJobs follows the ends of the namespace's jobs, as WatchRuns does those of runs.
func (c *Client) WatchJobs(ctx context.Context) iter.Seq2[*pb.WatchJobsResponse_End, error] {
	return news(ctx, c, func(ctx context.Context, cursor string, told func([]*pb.WatchJobsResponse_End, string) bool) error {
		return jobEnds{c}.messages(ctx, cursor, told)
	})
}

// news goes on with another stream where one breaks.
func news[E any](
	ctx context.Context, c *Client, follow func(ctx context.Context, cursor string, told func([]E, string) bool) error,
) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		following, cancel := context.WithCancel(ctx)
		defer cancel()
		var none E
		cursor, isEnough := "", false
		for attempt := 0; ; attempt++ {
			err := follow(following, cursor, func(ends []E, behind string) bool {
				for _, end := range ends {
					if isEnough = !yield(end, nil); isEnough {
						return false
					}
				}
				attempt, cursor = 0, behind
				return true
			})
			switch {
			case isEnough:
				return
			case ctx.Err() != nil:
				yield(none, context.Cause(ctx))
				return
			case c.ctx.Err() != nil:
				yield(none, ErrClosed)
				return
			case !isPassing(err):
				yield(none, err)
				return
			}
			sleep(ctx, backoff(attempt, err))
		}
	}
}

// received reads a stream's messages until it fails, or whoever is told has enough.
func received[E, M any, P interface {
	*M
	GetEnds() []E
	GetCursor() string
}](stream grpc.ServerStreamingClient[M], told func(ends []E, cursor string) bool) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return fromRPC(orEnd(err))
		}
		if !told(P(message).GetEnds(), P(message).GetCursor()) {
			return nil
		}
	}
}

// runEnds are the ends of runs.
type runEnds struct{ client *Client }

func (s runEnds) messages(
	ctx context.Context, cursor string, told func([]*pb.WatchRunsResponse_End, string) bool,
) error {
	request := &pb.WatchRunsRequest{Namespace: s.client.options.namespace, Cursor: cursor}
	stream, err := s.client.Runs.WatchRuns(s.client.outgoing(ctx), request)
	if err != nil {
		return fromRPC(err)
	}
	return received(stream, told)
}

func (s runEnds) follow(ctx context.Context, cursor string, told func([]*ended, string)) error {
	return s.messages(ctx, cursor, func(ends []*pb.WatchRunsResponse_End, cursor string) bool {
		all := make([]*ended, len(ends))
		for place, end := range ends {
			all[place] = &ended{
				id: end.GetRunId(), next: end.GetContinuedRunId(), how: phaseName(end.GetPhase()),
				completed: end.GetPhase() == pb.RunPhase_RUN_PHASE_COMPLETED, purged: end.GetPurged(),
				omitted: end.GetResultOmitted(), result: end.GetResult(), failure: end.GetFailure(),
			}
		}
		told(all, cursor)
		return true
	})
}

func (s runEnds) look(ctx context.Context, id string) (*ended, error) {
	request := &pb.GetRunRequest{Namespace: s.client.options.namespace, RunId: id}
	answer, err := invoke(ctx, s.client, s.client.Runs.GetRun, request)
	if err != nil {
		return nil, err
	}
	return endOfRun(answer.GetRun()), nil
}

func (s runEnds) wait(ctx context.Context, id string) (*ended, error) {
	request := &pb.WaitRunRequest{
		Namespace: s.client.options.namespace, RunId: id, Wait: durationpb.New(endWait),
	}
	answer, err := invoke(ctx, s.client, s.client.Runs.WaitRun, request)
	if err != nil || !answer.GetEnded() {
		return nil, err
	}
	return endOfRun(answer.GetRun()), nil
}

func endOfRun(run *pb.Run) *ended {
	if run.GetPhase() < pb.RunPhase_RUN_PHASE_COMPLETED {
		return nil
	}
	return &ended{
		id: run.GetRunId(), next: run.GetContinuedRunId(), how: phaseName(run.GetPhase()),
		completed: run.GetPhase() == pb.RunPhase_RUN_PHASE_COMPLETED, purged: run.GetPurged(),
		result: run.GetResult(), failure: run.GetFailure(),
	}
}

func phaseName(phase pb.RunPhase) string { return strings.TrimPrefix(phase.String(), "RUN_PHASE_") }

// jobEnds are the ends of jobs.
type jobEnds struct{ client *Client }

func (s jobEnds) messages(
	ctx context.Context, cursor string, told func([]*pb.WatchJobsResponse_End, string) bool,
) error {
	request := &pb.WatchJobsRequest{Namespace: s.client.options.namespace, Cursor: cursor}
	stream, err := s.client.Jobs.WatchJobs(s.client.outgoing(ctx), request)
	if err != nil {
		return fromRPC(err)
	}
	return received(stream, told)
}

func (s jobEnds) follow(ctx context.Context, cursor string, told func([]*ended, string)) error {
	return s.messages(ctx, cursor, func(ends []*pb.WatchJobsResponse_End, cursor string) bool {
		all := make([]*ended, len(ends))
		for place, end := range ends {
			all[place] = &ended{
				id: end.GetJobId(), how: stateName(end.GetState()),
				completed: end.GetState() == pb.JobState_JOB_STATE_COMPLETED,
				omitted:   end.GetResultOmitted(), result: end.GetResult(), failure: end.GetFailure(),
			}
		}
		told(all, cursor)
		return true
	})
}

func (s jobEnds) look(ctx context.Context, id string) (*ended, error) {
	request := &pb.GetJobRequest{Namespace: s.client.options.namespace, JobId: id}
	answer, err := invoke(ctx, s.client, s.client.Jobs.GetJob, request)
	if err != nil {
		return nil, err
	}
	return endOfJob(answer.GetJob()), nil
}

func (s jobEnds) wait(ctx context.Context, id string) (*ended, error) {
	request := &pb.WaitJobRequest{
		Namespace: s.client.options.namespace, JobId: id, Wait: durationpb.New(endWait),
	}
	answer, err := invoke(ctx, s.client, s.client.Jobs.WaitJob, request)
	if err != nil || !answer.GetEnded() {
		return nil, err
	}
	return endOfJob(answer.GetJob()), nil
}

func endOfJob(job *pb.Job) *ended {
	if job.GetState() < pb.JobState_JOB_STATE_COMPLETED {
		return nil
	}
	return &ended{
		id: job.GetJobId(), how: stateName(job.GetState()),
		completed: job.GetState() == pb.JobState_JOB_STATE_COMPLETED,
		result:    job.GetResult(), failure: job.GetFailure(),
	}
}

func stateName(state pb.JobState) string { return strings.TrimPrefix(state.String(), "JOB_STATE_") }
