package stepwell

import (
	"context"
	"errors"
	"log/slog"
	"time"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	// beatPause is between two heartbeats of one attempt; what is told meanwhile is merged.
	beatPause = time.Second
	// beatsPerTimeout go out in the longest time that may pass between two.
	beatsPerTimeout = 3
)

type activityKey struct{}

// ActivityInfo says which attempt of what an activity's function is at.
type ActivityInfo struct {
	// Namespace, Type and TaskQueue are the task's.
	Namespace, Type, TaskQueue string
	// RunID and WorkflowID are the run's; empty for a job.
	RunID, WorkflowID string
	// JobID is the job's; empty for an activity of a run.
	JobID string
	// StepName is the step's; empty for a job.
	StepName string
	// Attempt counts from 1.
	Attempt int
	// Deadline is when the attempt times out; zero if it does not.
	Deadline time.Time
	// HeartbeatTimeout is the longest time between heartbeats; 0 if none are needed.
	HeartbeatTimeout time.Duration
}

// InfoOf gives what is known of the attempt that a context belongs to. Panics outside of an activity.
func InfoOf(ctx context.Context) ActivityInfo {
	task := performing(ctx).task
	info := ActivityInfo{
		Namespace: task.GetNamespace(), Type: task.GetType(), TaskQueue: task.GetTaskQueue(), RunID: task.GetRunId(),
		WorkflowID: task.GetWorkflowId(), JobID: task.GetJobId(), StepName: task.GetStepName(),
		Attempt: int(task.GetAttempt()), HeartbeatTimeout: task.GetHeartbeatTimeout().AsDuration(),
	}
	if task.GetAttemptDeadline() != nil {
		info.Deadline = task.GetAttemptDeadline().AsTime()
	}
	return info
}

// Heartbeat says that the activity is alive, and how far it is (nil: unchanged); the next attempt gets the details. It
// does not wait, and may be called as often as one likes: what comes faster than is needed goes out later.
func Heartbeat(ctx context.Context, details any) { performing(ctx).tell(ctx, details) }

// HeartbeatDetails reads what the attempt before told last into what target points to. False if it told nothing.
func HeartbeatDetails(ctx context.Context, target any) (bool, error) {
	a := performing(ctx)
	details := a.task.GetHeartbeatDetails()
	if details == nil {
		return false, nil
	}
	return true, a.worker.converter.FromPayload(details, target)
}

func performing(ctx context.Context) *attempt {
	found, ok := ctx.Value(activityKey{}).(*attempt)
	if !ok {
		panic("stepwell: the context is not that of an activity")
	}
	return found
}

// attempt is one attempt at an activity or a job.
type attempt struct {
	held
	ctx    context.Context
	end    context.CancelCauseFunc
	beat   *pb.TaskHeartbeat // what is to be told at the next; guarded by the worker's mu, as is the moment of the last
	beaten time.Time
}

func newAttempt(base held) *attempt {
	a := &attempt{held: base}
	a.ctx, a.end = context.WithCancelCause(context.WithValue(context.Background(), activityKey{}, a))
	return a
}

func (a *attempt) begin() { go a.perform(a.worker.activities[a.task.GetType()]) }

func (a *attempt) perform(activity func(context.Context, *pb.Payload) (*pb.Payload, error)) {
	ctx, span := activitySpan(a.ctx, a.task)
	var result *pb.Payload
	var err error = errExited
	defer func() {
		endSpan(span, err)
		a.worker.report(a, a.outcome(result, err))
	}()
	result, err = guarded(func() (*pb.Payload, error) { return activity(ctx, a.task.GetInput()) })
}

// outcome spells what the function came to.
func (a *attempt) outcome(result *pb.Payload, err error) *pb.Report {
	report := &pb.Report{}
	switch {
	case err == nil:
		report.Outcome = &pb.Report_Complete{Complete: &pb.CompleteActivity{Result: result}}
	case a.ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(a.ctx))):
		report.Outcome = &pb.Report_Cancelled{Cancelled: &pb.CancelledActivity{}}
	default:
		failure := failureOf(err, a.worker.converter)
		report.Outcome = &pb.Report_Fail{Fail: &pb.FailActivity{Failure: failure}}
	}
	return report
}

func (a *attempt) stop()         { a.end(ErrTaskLost) }
func (a *attempt) cancel(string) { a.end(ErrActivityCancelled) }

// tell keeps a heartbeat until the next that goes out; what it says nothing of stays as it was told before.
func (a *attempt) tell(ctx context.Context, details any) {
	beat := &pb.TaskHeartbeat{Ref: a.task.GetRef(), Traceparent: traceOf(ctx)["traceparent"]}
	if details != nil {
		var err error
		if beat.Details, err = a.worker.converter.ToPayload(details); err != nil {
			slog.Error("stepwell: heartbeat details can't be told", "type", a.task.GetType(), "error", err)
		}
	}
	a.worker.mu.Lock()
	defer a.worker.mu.Unlock()
	if beat.Details == nil {
		beat.Details = a.beat.GetDetails()
	}
	if a.report == nil {
		a.beat = beat
	}
}

// pause is the time between two heartbeats of the attempt on the wire.
func (a *attempt) pause() time.Duration {
	if timeout := a.task.GetHeartbeatTimeout().AsDuration(); timeout > 0 {
		return min(beatPause, timeout/beatsPerTimeout)
	}
	return beatPause
}

func (a *attempt) beatAnswered(result *pb.TaskHeartbeatResult) {
	if result.GetLost() {
		// It is reported all the same, so that its place is given back.
		a.stop()
	} else if result.GetCancelRequested() {
		a.cancel("")
	}
}
