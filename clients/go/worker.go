package stepwell

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const answerTime = 5 * time.Second

// WorkerOptions says what a worker takes on. The zero value is a worker of the queue "default" with the defaults below.
type WorkerOptions struct {
	// TaskQueues are those that it takes tasks from. Default: "default".
	TaskQueues []string
	// MaxActivities is how many activities and jobs it performs at once. Default: 100; -1: none.
	MaxActivities int
	// MaxRuns is how many runs it advances at once. Default: 200; -1: none.
	MaxRuns int
	// MaxResidentRuns is how many waiting runs stay in memory besides. Default: 1,000; -1: none.
	MaxResidentRuns int
	// BuildID says which build of the program this is. A run goes on with the build that last recorded something of it.
	BuildID string
	// CompatibleBuildIDs are other builds whose runs this one's code can go on with.
	CompatibleBuildIDs []string
	// WorkerID is stable over reconnects. Default: host, process and a random part.
	WorkerID string
	// DrainTime is what it gives its work to end when it leaves. Default: 30 s.
	DrainTime time.Duration
}

// Worker takes tasks off a stream, runs workflows and activities, and reports what came of them.
type Worker struct {
	client  *Client
	options WorkerOptions
	session *session
	outbox  *outbox
	runs    *roster
	tasks   *performer
	leaving chan struct{}
	once    sync.Once
	begun   atomic.Bool
	welcome chan struct{}
	greeted sync.Once
}

// NewWorker prepares a worker; Run connects it.
func NewWorker(client *Client, options WorkerOptions) *Worker {
	if len(options.TaskQueues) == 0 {
		options.TaskQueues = []string{"default"}
	}
	options.MaxActivities = max(0, orElse(options.MaxActivities, 100))
	options.MaxRuns = max(0, orElse(options.MaxRuns, 200))
	options.MaxResidentRuns = max(0, orElse(options.MaxResidentRuns, 1000))
	if options.DrainTime == 0 {
		options.DrainTime = 30 * time.Second
	}
	if options.WorkerID == "" {
		id := uuid7()
		options.WorkerID = identity() + "/" + id[len(id)-8:]
	}
	outbox := newOutbox()
	return &Worker{
		client: client, options: options, outbox: outbox, runs: newRoster(client, outbox),
		tasks:   newPerformer(client.options.converter, outbox),
		leaving: make(chan struct{}), welcome: make(chan struct{}),
	}
}

func orElse(value, otherwise int) int {
	if value == 0 {
		return otherwise
	}
	return value
}

func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// RegisterWorkflow lets a worker advance runs of a type. To be called before Run; panics if it knows the type already.
func RegisterWorkflow[I, O any](w *Worker, workflow string, function func(w Workflow, input I) (O, error)) {
	if w.runs.definitions[workflow] != nil {
		panic("stepwell: there are two workflows " + workflow)
	}
	w.runs.definitions[workflow] = func(wf Workflow, payload *pb.Payload) (*pb.Payload, error) {
		var input I
		if err := w.runs.converter.FromPayload(payload, &input); err != nil {
			return nil, &ApplicationError{Type: "InvalidInput", Message: err.Error(), NonRetryable: true, Cause: err}
		}
		result, err := function(wf, input)
		if err != nil {
			return nil, err
		}
		return w.runs.converter.ToPayload(result)
	}
}

// RegisterActivity lets a worker perform activities and jobs of a type. To be called before Run; panics if it knows the
// type already.
func RegisterActivity[I, O any](w *Worker, activity string, function func(ctx context.Context, input I) (O, error)) {
	if w.tasks.definitions[activity] != nil {
		panic("stepwell: there are two activities " + activity)
	}
	w.tasks.definitions[activity] = func(ctx context.Context, payload *pb.Payload) (*pb.Payload, error) {
		var input I
		if err := w.tasks.converter.FromPayload(payload, &input); err != nil {
			return nil, &ApplicationError{Type: "InvalidInput", Message: err.Error(), NonRetryable: true, Cause: err}
		}
		result, err := function(ctx, input)
		if err != nil {
			return nil, err
		}
		return w.tasks.converter.ToPayload(result)
	}
}

// Run works until Shutdown is called or the context ends, either of which lets it finish what is in work first. It
// connects again whenever the stream breaks, and gives an error when the service refuses the worker for good: a wrong
// key, an unknown namespace. A worker runs once.
func (w *Worker) Run(ctx context.Context) error {
	if w.begun.Swap(true) {
		return errors.New("stepwell: a worker runs once: make another one")
	}
	w.session = newSession(w, w.hello(), w.outbox)
	connected := make(chan error, 1)
	linked, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	go func() { connected <- w.session.run(linked) }()
	defer w.sessionLost()
	select {
	case err := <-connected:
		return err
	case <-w.leaving:
	case <-ctx.Done():
	}
	w.session.drain()
	w.runs.leave()
	if !w.becomesIdle(connected, w.options.DrainTime) {
		w.runs.releaseAll("the worker is leaving")
		w.tasks.releaseAll("the worker is leaving")
	}
	w.waitFor(connected, w.outbox.answered, answerTime, w.outbox.isAnswered)
	w.session.close()
	select {
	case err := <-connected:
		return err
	case <-time.After(answerTime):
		return nil
	}
}

// Connected is closed once the service has first said welcome.
func (w *Worker) Connected() <-chan struct{} { return w.welcome }

// Shutdown lets Run finish what is in work and return. Safe to repeat.
func (w *Worker) Shutdown() { w.once.Do(func() { close(w.leaving) }) }

func (w *Worker) hello() *pb.Hello {
	hello := &pb.Hello{
		Namespace: w.client.options.namespace, WorkerId: w.options.WorkerID, TaskQueues: w.options.TaskQueues,
		BuildId: w.options.BuildID, CompatibleBuildIds: w.options.CompatibleBuildIDs,
		Identity: identity(), Sdk: "stepwell-go/" + version, Capacity: &pb.CapacityUpdate{},
	}
	for workflow := range w.runs.definitions {
		hello.WorkflowTypes = append(hello.WorkflowTypes, workflow)
	}
	for activity := range w.tasks.definitions {
		hello.ActivityTypes = append(hello.ActivityTypes, activity)
	}
	if len(hello.WorkflowTypes) > 0 {
		hello.Capacity.Capacities = append(hello.Capacity.Capacities, &pb.Capacity{
			Kind: pb.TaskKind_TASK_KIND_RUN, MaxOutstanding: int32(w.options.MaxRuns),
			MaxResident: int32(w.options.MaxResidentRuns),
		})
	}
	if len(hello.ActivityTypes) > 0 {
		hello.Capacity.Capacities = append(hello.Capacity.Capacities, &pb.Capacity{
			Kind: pb.TaskKind_TASK_KIND_ACTIVITY, MaxOutstanding: int32(w.options.MaxActivities),
		})
	}
	return hello
}

// becomesIdle tells whether all work ended within a time.
func (w *Worker) becomesIdle(connected chan error, within time.Duration) bool {
	end := time.Now().Add(within)
	hasNone := func() bool { return len(w.runs.all()) == 0 && len(w.tasks.all()) == 0 }
	for !hasNone() {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		select {
		case <-w.runs.idle:
		case <-w.tasks.idle:
		case err := <-connected:
			connected <- err
			return false
		case <-time.After(left):
		}
	}
	return true
}

func (w *Worker) waitFor(connected chan error, told <-chan struct{}, within time.Duration, holds func() bool) {
	end := time.After(within)
	for !holds() {
		select {
		case <-told:
		case err := <-connected:
			connected <- err
			return
		case <-end:
			return
		}
	}
}

// --- what the session tells --------------------------------------------------------------------------------------------

// held gives all tasks that the worker has.
func (w *Worker) held() []*pb.TaskRef {
	var refs []*pb.TaskRef
	for _, x := range w.runs.all() {
		refs = append(refs, x.ref)
	}
	for _, a := range w.tasks.all() {
		refs = append(refs, a.ref)
	}
	return refs
}

// received takes in a message: assigns first, since all else that it says may be about them.
func (w *Worker) received(message *pb.ConnectResponse) {
	if message.GetWelcome() != nil {
		w.greeted.Do(func() { close(w.welcome) })
	}
	for _, task := range message.GetAssigns() {
		if task.GetKind() == pb.TaskKind_TASK_KIND_RUN {
			w.runs.assign(task)
		} else {
			w.tasks.assign(task)
		}
	}
	for _, cancel := range message.GetCancels() {
		w.tasks.cancel(cancel.GetRef())
		w.runs.cancel(cancel.GetRef(), cancel.GetReason())
	}
	for _, revoke := range message.GetRevokes() {
		w.tasks.revoke(revoke.GetRef())
		w.runs.revoke(revoke.GetRef())
	}
	for _, result := range message.GetResults() {
		w.outbox.answer(result)
	}
	for _, beat := range message.GetHeartbeats() {
		w.tasks.beatAnswered(beat)
	}
	for _, advance := range message.GetAdvances() {
		w.runs.advance(advance)
	}
	for _, query := range message.GetQueries() {
		w.runs.ask(query)
	}
	if rotate := message.GetRotate(); rotate != nil {
		w.session.rotate(rotate.GetWithin().AsDuration())
	}
}

// resumed drops tasks that are not held any more, except those with an unanswered report.
func (w *Worker) resumed(still map[string]int64) {
	reported := w.outbox.reported()
	isHeld := func(ref *pb.TaskRef) bool {
		token, isStill := still[ref.GetTaskId()]
		return isStill && token == ref.GetToken() || reported[ref.GetTaskId()]
	}
	for _, x := range w.runs.all() {
		if !isHeld(x.ref) {
			w.runs.forget(x)
		}
	}
	for _, a := range w.tasks.all() {
		if !isHeld(a.ref) {
			a.lose()
		}
	}
}

// sessionLost drops all tasks: the session is over, and its leases with it.
func (w *Worker) sessionLost() {
	for _, x := range w.runs.all() {
		w.runs.forget(x)
	}
	for _, a := range w.tasks.all() {
		a.lose()
	}
}
