package stepwell

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	// beatPause is between two heartbeats of one attempt; what is told meanwhile is merged.
	beatPause = time.Second
	// beatsPerTimeout go out in the longest time that may pass between two.
	beatsPerTimeout = 3
	// detailsMost is what the service takes of details.
	detailsMost = 2 << 20
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
func Heartbeat(ctx context.Context, details any) { performing(ctx).beat(ctx, details) }

// HeartbeatDetails reads what the attempt before told last into what target points to. False if it told nothing.
func HeartbeatDetails(ctx context.Context, target any) (bool, error) {
	p := performing(ctx)
	details := p.task.GetHeartbeatDetails()
	if details == nil {
		return false, nil
	}
	return true, p.performer.converter.FromPayload(details, target)
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
	performer *performer
	task      *pb.Task
	ref       *pb.TaskRef
	ctx       context.Context
	stop      context.CancelCauseFunc

	mu          sync.Mutex
	isCancelled bool
	isGone      bool
	refusals    refusals
	report      *pb.Report
	details     *pb.Payload
	hasBeat     bool
	isThrottled bool
	trace       string
}

// performer performs the activities and jobs of a worker.
type performer struct {
	converter   Converter
	outbox      *outbox
	definitions map[string]func(context.Context, *pb.Payload) (*pb.Payload, error)

	mu      sync.Mutex
	running map[string]*attempt
	idle    chan struct{} // told whenever nothing runs
}

func newPerformer(converter Converter, outbox *outbox) *performer {
	return &performer{
		converter: converter, outbox: outbox, running: map[string]*attempt{}, idle: make(chan struct{}, 1),
		definitions: map[string]func(context.Context, *pb.Payload) (*pb.Payload, error){},
	}
}

// assign begins an attempt.
func (p *performer) assign(task *pb.Task) {
	a := &attempt{performer: p, task: task, ref: task.GetRef()}
	a.ctx, a.stop = context.WithCancelCause(context.WithValue(context.Background(), activityKey{}, a))
	p.mu.Lock()
	former := p.running[a.ref.GetTaskId()]
	if former != nil && former.ref.GetToken() >= a.ref.GetToken() {
		// It is known, or older than what is known.
		p.mu.Unlock()
		p.outbox.acknowledge(a.ref)
		return
	}
	p.running[a.ref.GetTaskId()] = a
	p.mu.Unlock()
	if former != nil {
		former.lose()
	}
	definition := p.definitions[task.GetType()]
	if definition == nil {
		a.tell(&pb.Report{Outcome: release("activity " + task.GetType() + " is not known here")})
		return
	}
	p.outbox.acknowledge(a.ref)
	go a.perform(definition)
}

func (a *attempt) perform(definition func(context.Context, *pb.Payload) (*pb.Payload, error)) {
	ctx, span := activitySpan(a.ctx, a.task)
	a.mu.Lock()
	a.trace = traceparentOf(ctx)
	a.mu.Unlock()
	var result *pb.Payload
	err := guarded(func() (err error) {
		result, err = definition(ctx, a.task.GetInput())
		return err
	})
	endSpan(span, err)
	a.mu.Lock()
	isCancelled, isGone := a.isCancelled, a.isGone
	a.mu.Unlock()
	if isGone {
		return
	}
	if err == nil {
		a.tell(&pb.Report{Outcome: &pb.Report_Complete{Complete: &pb.CompleteActivity{Result: result}}})
		return
	}
	// What the next attempt needs to know goes out before it can begin.
	a.sendBeat()
	if isCancelled && isStop(err) {
		a.tell(&pb.Report{Outcome: &pb.Report_Cancelled{Cancelled: &pb.CancelledActivity{}}})
		return
	}
	a.tell(&pb.Report{Outcome: &pb.Report_Fail{Fail: &pb.FailActivity{Failure: failureOf(err, a.performer.converter)}}})
}

// isStop tells whether that is what code gives that was asked to stop.
func isStop(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, ErrActivityCancelled) || errors.Is(err, ErrTaskLost)
}

// tell reports what came of the attempt, unless it is somebody else's meanwhile.
func (a *attempt) tell(report *pb.Report) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.isGone {
		report.Ref = a.ref
		a.report = report
		a.performer.outbox.report(a, report)
	}
}

// reportAnswered forgets an attempt whose report was answered, unless something is left to do about it.
func (a *attempt) reportAnswered(result *pb.ReportResult) {
	if result.GetStatus() != pb.ReportResult_STATUS_REFUSED {
		a.performer.remove(a)
		return
	}
	failed := fromStatus(result.GetError())
	slog.Info("the report of an activity was refused", "type", a.task.GetType(), "error", failed)
	a.mu.Lock()
	found := a.refusals.judge(failed)
	same := &pb.Report{Outcome: a.report.GetOutcome()}
	a.mu.Unlock()
	_, isReleased := same.GetOutcome().(*pb.Report_Release)
	switch {
	case found == sendAgain:
		time.AfterFunc(delayOf(failed), func() { a.tell(same) })
	case found == failWith && !isReleased:
		// What it came to can't be recorded, and would not be at another attempt.
		a.tell(&pb.Report{Outcome: &pb.Report_Fail{Fail: &pb.FailActivity{Failure: failureFrom(failed)}}})
	case found == giveBack && !isReleased:
		a.tell(&pb.Report{Outcome: release("its report was refused: " + failed.Reason)})
	default:
		a.performer.remove(a)
	}
}

// cancel asks the attempt to stop: its context ends, with that cause.
func (a *attempt) cancel(cause error) {
	a.mu.Lock()
	a.isCancelled = true
	a.mu.Unlock()
	a.stop(cause)
}

// lose ends an attempt that is somebody else's now; nothing is reported.
func (a *attempt) lose() {
	a.mu.Lock()
	a.isGone = true
	a.mu.Unlock()
	a.stop(ErrTaskLost)
	a.performer.remove(a)
}

func (a *attempt) beat(ctx context.Context, details any) {
	var payload *pb.Payload
	if details != nil {
		spelled, err := a.performer.converter.ToPayload(details)
		if err != nil {
			slog.Error("heartbeat details can't be written", "type", a.task.GetType(), "error", err)
		} else if size := proto.Size(spelled); size > detailsMost {
			slog.Error("heartbeat details are too large", "type", a.task.GetType(), "bytes", size, "most", detailsMost)
		} else {
			payload = spelled
		}
	}
	a.mu.Lock()
	if payload != nil {
		a.details = payload
	}
	a.hasBeat = true
	mayGo := !a.isThrottled
	if mayGo {
		a.isThrottled = true
		time.AfterFunc(a.pause(), a.breathe)
	}
	a.mu.Unlock()
	if mayGo {
		a.sendBeat()
	}
}

// pause is the time between two heartbeats of the attempt on the wire.
func (a *attempt) pause() time.Duration {
	if timeout := a.task.GetHeartbeatTimeout().AsDuration(); timeout > 0 {
		return min(beatPause, timeout/beatsPerTimeout)
	}
	return beatPause
}

// breathe sends what gathered in a pause.
func (a *attempt) breathe() {
	a.mu.Lock()
	hasBeat := a.hasBeat && !a.isGone && a.report == nil
	a.isThrottled = hasBeat
	if hasBeat {
		time.AfterFunc(a.pause(), a.breathe)
	}
	a.mu.Unlock()
	if hasBeat {
		a.sendBeat()
	}
}

func (a *attempt) sendBeat() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.hasBeat || a.isGone {
		return
	}
	a.hasBeat = false
	a.performer.outbox.heartbeat(&pb.TaskHeartbeat{Ref: a.ref, Details: a.details, Traceparent: a.trace})
}

func (p *performer) find(ref *pb.TaskRef) *attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := p.running[ref.GetTaskId()]
	if found == nil || found.ref.GetToken() != ref.GetToken() {
		return nil
	}
	return found
}

func (p *performer) cancel(ref *pb.TaskRef) {
	if found := p.find(ref); found != nil {
		found.cancel(ErrActivityCancelled)
	}
}

func (p *performer) revoke(ref *pb.TaskRef) {
	if found := p.find(ref); found != nil {
		found.lose()
	}
}

func (p *performer) beatAnswered(result *pb.TaskHeartbeatResult) {
	if result.GetLost() {
		// It is reported all the same, so that its place is given back.
		if found := p.find(result.GetRef()); found != nil {
			found.cancel(ErrTaskLost)
		}
	} else if result.GetCancelRequested() {
		p.cancel(result.GetRef())
	}
}

func (p *performer) remove(a *attempt) {
	a.mu.Lock()
	a.isGone = true
	a.mu.Unlock()
	a.stop(ErrTaskLost)
	p.mu.Lock()
	if p.running[a.ref.GetTaskId()] == a {
		delete(p.running, a.ref.GetTaskId())
	}
	isIdle := len(p.running) == 0
	p.mu.Unlock()
	if isIdle {
		poke(p.idle)
	}
}

func (p *performer) all() []*attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := make([]*attempt, 0, len(p.running))
	for _, a := range p.running {
		found = append(found, a)
	}
	return found
}

// releaseAll gives back what is still under way: its attempt is not counted, and its functions are told to stop.
func (p *performer) releaseAll(reason string) {
	for _, a := range p.all() {
		a.sendBeat()
		a.mu.Lock()
		isReported := a.report != nil
		a.mu.Unlock()
		if isReported {
			continue
		}
		a.tell(&pb.Report{Outcome: release(reason)})
		a.mu.Lock()
		a.isGone, a.isCancelled = true, true
		a.mu.Unlock()
		a.stop(ErrTaskLost)
	}
}

func release(reason string) *pb.Report_Release {
	return &pb.Report_Release{Release: &pb.ReleaseTask{Reason: reason}}
}
