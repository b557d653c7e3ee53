package stepwell

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// Workflow is what a workflow's function does everything through that must not be lost. It belongs to one branch of one
// run, and is of no use outside of the function that it is given to. Code waits by its calls only: a channel or a lock
// that another branch must serve would hold the whole run.
//
// Calls give [ErrRunCancelled] (see errors.Is) once in each branch after somebody asked the run to cancel.
type Workflow struct {
	x *execution
	s *scope
}

// RunID is the run's own id, a UUID.
func (w Workflow) RunID() string { return w.x.task.GetRunId() }

// WorkflowID is the caller's name for the run.
func (w Workflow) WorkflowID() string { return w.x.task.GetWorkflowId() }

// Type is the workflow's.
func (w Workflow) Type() string { return w.x.task.GetType() }

// TaskQueue is the one that the run came from.
func (w Workflow) TaskQueue() string { return w.x.task.GetTaskQueue() }

// Attempt is which one of the run's retry policy this is, from 1.
func (w Workflow) Attempt() int { return int(w.x.task.GetRunAttempt()) }

// StartTime is when the run was started.
func (w Workflow) StartTime() time.Time { return w.x.task.GetRunCreateTime().AsTime() }

// StepOption is an option of a call.
type StepOption func(*stepOptions)

type stepOptions struct {
	name     string
	key      string
	retry    *RetryPolicy
	patient  bool
	limit    int
	wait     *pb.WaitStep
	activity *pb.ActivityStep
	child    *pb.ChildStep
}

func chosen(name string, options []StepOption) *stepOptions {
	all := &stepOptions{name: name, wait: &pb.WaitStep{}, activity: &pb.ActivityStep{}, child: &pb.ChildStep{}}
	for _, option := range options {
		option(all)
	}
	return all
}

// Named gives the step a name of its own. Default: what is called.
func Named(name string) StepOption { return func(o *stepOptions) { o.name = name } }

// Keyed gives the step a key in place of its count among the calls of that name.
func Keyed(key string) StepOption { return func(o *stepOptions) { o.key = key } }

// Retried says when to try again: an activity (default: without limit, from 1 s, doubling, up to 100 s), a child or the
// function of a Step (default: never).
func Retried(policy RetryPolicy) StepOption {
	return func(o *stepOptions) {
		o.retry, o.activity.Retry, o.child.Retry = &policy, policy.spell(), policy.spell()
	}
}

// WaitAtMost bounds a wait for a signal or a topic, which then gives ErrWaitTimeout. 0: it takes what is there, or none.
func WaitAtMost(timeout time.Duration) StepOption {
	return func(o *stepOptions) { o.wait.Timeout = durationpb.New(timeout) }
}

// UntilItEnds has an activity asked to stop when the run is asked to cancel, and its own end waited for first.
func UntilItEnds() StepOption { return func(o *stepOptions) { o.patient = true } }

// AtMost bounds how many branches of Map go on at a time.
func AtMost(limit int) StepOption { return func(o *stepOptions) { o.limit = limit } }

// OnQueue names the queue of an activity or a child. Default: the run's.
func OnQueue(queue string) StepOption {
	return func(o *stepOptions) { o.activity.TaskQueue, o.child.TaskQueue = queue, queue }
}

// StartToClose bounds one attempt of an activity.
func StartToClose(timeout time.Duration) StepOption {
	return func(o *stepOptions) { o.activity.StartToCloseTimeout = durationpb.New(timeout) }
}

// ScheduleToClose bounds all attempts of an activity together.
func ScheduleToClose(timeout time.Duration) StepOption {
	return func(o *stepOptions) { o.activity.ScheduleToCloseTimeout = durationpb.New(timeout) }
}

// ScheduleToStart bounds how long an activity waits for its first attempt.
func ScheduleToStart(timeout time.Duration) StepOption {
	return func(o *stepOptions) { o.activity.ScheduleToStartTimeout = durationpb.New(timeout) }
}

// HeartbeatWithin is the longest time between heartbeats of an activity.
func HeartbeatWithin(timeout time.Duration) StepOption {
	return func(o *stepOptions) { o.activity.HeartbeatTimeout = durationpb.New(timeout) }
}

// ChildID gives a child the caller's name for it.
func ChildID(workflowID string) StepOption {
	return func(o *stepOptions) { o.child.WorkflowId = workflowID }
}

// WithChild changes the child's request itself, for what has no option of its own.
func WithChild(change func(*pb.ChildStep)) StepOption {
	return func(o *stepOptions) { change(o.child) }
}

// Activity has an activity performed by any worker of its queue, and gives what it came to. An activity that failed for
// good gives a *StepError.
func Activity[O any](w Workflow, activity string, input any, options ...StepOption) (O, error) {
	o := chosen(activity, options)
	step := &pb.NewStep{Kind: &pb.NewStep_Activity{Activity: o.activity}}
	o.activity.Type, o.activity.Shielded = activity, w.s.shielded
	return answer[O](w, pb.StepKind_STEP_KIND_ACTIVITY, o, step, func() (err error) {
		o.activity.Input, err = w.x.worker.converter.ToPayload(input)
		return err
	})
}

// Child starts another run, and gives what it came to. A child that did not end well gives a *StepError.
func Child[O any](w Workflow, workflow string, input any, options ...StepOption) (O, error) {
	o := chosen(workflow, options)
	step := &pb.NewStep{Kind: &pb.NewStep_Child{Child: o.child}}
	o.child.Type = workflow
	return answer[O](w, pb.StepKind_STEP_KIND_CHILD, o, step, func() (err error) {
		o.child.Input, err = w.x.worker.converter.ToPayload(input)
		return err
	})
}

// Sleep waits durably: the time goes on while no worker has the run.
func (w Workflow) Sleep(duration time.Duration, options ...StepOption) error {
	step := &pb.NewStep{Kind: &pb.NewStep_Timer{Timer: &pb.TimerStep{Duration: durationpb.New(duration)}}}
	_, err := answer[struct{}](w, pb.StepKind_STEP_KIND_TIMER, chosen("sleep", options), step, nil)
	return err
}

// WaitSignal waits for a signal, and gives what it carries: of those that came before, the oldest that nobody took.
func WaitSignal[O any](w Workflow, signal string, options ...StepOption) (O, error) {
	o := chosen(signal, options)
	o.wait.Awaited = &pb.WaitStep_SignalName{SignalName: signal}
	return waitFor[O](w, o)
}

// WaitTopic waits for an event of a topic, and gives what it carries.
func WaitTopic[O any](w Workflow, topic string, options ...StepOption) (O, error) {
	o := chosen("topic "+topic, options)
	o.wait.Awaited = &pb.WaitStep_Topic{Topic: topic}
	return waitFor[O](w, o)
}

func waitFor[O any](w Workflow, o *stepOptions) (O, error) {
	step := &pb.NewStep{Kind: &pb.NewStep_Wait{Wait: o.wait}}
	return answer[O](w, pb.StepKind_STEP_KIND_WAIT, o, step, nil)
}

// answer makes a call, and reads what its step came to. write, if any, spells the input; it is called if the step is new.
func answer[O any](
	w Workflow, kind pb.StepKind, o *stepOptions, step *pb.NewStep, write func() error,
) (result O, err error) {
	c := &call{stepOptions: o, kind: kind, step: step, write: write}
	found, err := w.x.await(w.s, c)
	if err != nil {
		return result, err
	}
	return result, readStep(w.x.worker.converter, found, &result)
}

func readStep(converter Converter, found *pb.StepRecord, target any) error {
	switch {
	case found.GetState() == pb.StepState_STEP_STATE_SKIPPED:
		return nil
	case found.GetState() != pb.StepState_STEP_STATE_COMPLETED:
		failure := found.GetFailure()
		if failure == nil {
			failure = &pb.Failure{Message: "it was cancelled", Type: "Cancelled"}
		}
		return &StepError{Name: found.GetName(), Failure: failure}
	case found.GetTimedOut():
		return fmt.Errorf("%s: %w", found.GetName(), ErrWaitTimeout)
	case found.GetKind() == pb.StepKind_STEP_KIND_TIMER:
		return nil
	}
	return converter.FromPayload(found.GetResult(), target)
}

// Step calls a function and has its result recorded before the code goes on: a checkpoint. The function is not called
// again once that is done; if the worker is lost before, it is. The context ends when the run is somebody else's. What it
// fails with, after the attempts of Retried, is recorded as well, and given as a *StepError.
func Step[O any](w Workflow, name string, function func(ctx context.Context) (O, error), options ...StepOption) (O, error) {
	var result O
	found, err := w.x.checkpoint(w.s, chosen(name, options), func(ctx context.Context) (*pb.Payload, error) {
		value, err := function(ctx)
		if err != nil {
			return nil, err
		}
		return w.x.worker.converter.ToPayload(value)
	})
	if err != nil {
		return result, err
	}
	// Also a fresh result is read from its payload: what the code sees must not depend on when it sees it.
	return result, readStep(w.x.worker.converter, found, &result)
}

// checkpoint answers a Step from the record, or calls its function and has the result recorded.
func (x *execution) checkpoint(
	s *scope, o *stepOptions, function func(context.Context) (*pb.Payload, error),
) (*pb.StepRecord, error) {
	found, _, err := x.recall(s, pb.StepKind_STEP_KIND_LOCAL, o.name, o.key, nil)
	if err != nil || found != nil {
		return found, err
	}
	s.busy = true
	defer func() { s.busy = false }()
	if x.isBroken {
		x.park(&waiter{wake: make(chan struct{})})
	}
	if x.out.lastMarker != nil {
		// The function may act on a side effect's value, which must be the same when it runs again.
		x.recorded(x.out.lastMarker)
	}
	body := &pb.LocalStep{}
	x.outside(func() { body.Result, body.Failure = x.attempts(o.retry, function) })
	x.mustHold()
	step := &pb.NewStep{Kind: &pb.NewStep_Local{Local: body}}
	x.recorded(x.addStep(s, pb.StepKind_STEP_KIND_LOCAL, o.name, o.key, step, nil))
	found = &pb.StepRecord{Name: o.name, State: pb.StepState_STEP_STATE_COMPLETED, Result: body.Result}
	if body.Failure != nil {
		found.State, found.Failure = pb.StepState_STEP_STATE_FAILED, body.Failure
	}
	return found, nil
}

// attempts calls a function until it succeeds, or its policy says that it is enough.
func (x *execution) attempts(
	retry *RetryPolicy, function func(context.Context) (*pb.Payload, error),
) (*pb.Payload, *pb.Failure) {
	for attempt := 1; ; attempt++ {
		result, err := guarded(func() (*pb.Payload, error) { return function(x.ctx) })
		if err == nil {
			return result, nil
		}
		failure := failureOf(err, x.worker.converter)
		if retry == nil || retry.isFinal(failure, attempt) {
			return nil, failure
		}
		delay := retry.delayAfter(attempt)
		if chosen := failure.GetNextRetryDelay(); chosen != nil {
			delay = chosen.AsDuration()
		}
		if !sleep(x.ctx, delay) {
			return nil, failure
		}
	}
}

// SideEffect calls a quick function once, and answers its value from the record ever after: a random number, the time.
func SideEffect[O any](w Workflow, name string, function func() O) (O, error) {
	var result O
	kind := pb.StepKind_STEP_KIND_MARKER
	found, isRecorded, err := w.x.recall(w.s, kind, name, "", nil)
	if err != nil {
		return result, err
	}
	payload := found.GetResult()
	if !isRecorded {
		if payload, err = w.x.worker.converter.ToPayload(function()); err != nil {
			return result, err
		}
		w.x.addMarker(w.s, name, "", payload)
	}
	return result, w.x.worker.converter.FromPayload(payload, &result)
}

const patchKey = "patch"

// Patched tells new code from old: true if the run, in this branch, has not come to this place before the code was
// changed. It is decided once for each branch.
func (w Workflow) Patched(name string) bool {
	w.x.mustHold()
	s, x := w.s, w.x
	if decided, known := s.patches[name]; known {
		return decided
	}
	kind := pb.StepKind_STEP_KIND_MARKER
	switch {
	case x.record.steps[s.keyFor(name, patchKey)] != nil:
		if _, _, err := x.recall(s, kind, name, patchKey, nil); err != nil {
			return false
		}
		s.patches[name] = true
	case s.count < len(s.recorded):
		s.patches[name] = false
	default:
		x.addMarker(s, name, patchKey, &pb.Payload{Body: &pb.Payload_Json{Json: "true"}})
		s.patches[name] = true
	}
	return s.patches[name]
}

// Publish keeps a value for those who ask the run by that name while no worker has it in memory, also after its end. At
// most 16 names a run, of at most 64 KiB each: more of either fails the run.
func (w Workflow) Publish(name string, value any) error {
	w.x.mustHold()
	payload, err := w.x.worker.converter.ToPayload(value)
	if err != nil {
		return err
	}
	w.x.queries.values[name], w.x.queries.changed[name] = payload, payload
	w.x.poke()
	return nil
}

// HandleQuery lets a function answer those who ask the run by that name while a worker has it in memory. The function
// looks and changes nothing, and makes no calls of a Workflow.
func HandleQuery[I, O any](w Workflow, name string, answer func(input I) (O, error)) {
	w.x.queries.functions[name] = converted(w.x.worker.converter, func(_ struct{}, input I) (O, error) { return answer(input) })
}

type continueAsNew struct{ end *pb.ContinueAsNew }

func (*continueAsNew) Error() string { return "the run goes on as a new one" }

// ContinueAsNew gives the error to return so that another run, of the same workflow id, goes on with the work. Signals
// that nobody took go along.
func (w Workflow) ContinueAsNew(input any) error {
	payload, err := w.x.worker.converter.ToPayload(input)
	if err != nil {
		return err
	}
	return &continueAsNew{&pb.ContinueAsNew{Input: payload}}
}
