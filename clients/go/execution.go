package stepwell

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// execution is one execution of a workflow function.
//
// Its branches are goroutines of which one at a time holds mu, and gives it away where it waits. A branch counts as
// active while its code may go on; code counts as busy while the function of a checkpoint runs, and as unrecorded while
// it waits for a record and nothing else. When none is active the turn is over, and what is new goes out as one
// Progress. With nothing busy or unrecorded either, the run says that it waits, and costs no slot until an Advance.
//
// What the stream brings is posted, and taken in by one goroutine of the run's own: the stream's reader waits for nobody.
type execution struct {
	held
	ctx context.Context // ends when the run is dropped
	end context.CancelFunc

	mu         sync.Mutex
	record     *record
	early      map[stepKey]*pb.StepRecord // steps that end while others are still being read
	out        outgoing
	open       map[stepKey]*call
	root       *scope
	scopes     map[string]*scope
	waiters    map[*waiter]bool
	queries    queries
	cancelDue  bool
	reason     string
	active     int
	busy       int
	unrecorded int
	outcome    *pb.Progress // the end, and nothing else
	caughtUp   bool
	isDropped  bool
	isBroken   bool

	postMu sync.Mutex
	posted []func()
	poked  chan struct{}
}

// waiter is code that waits.
type waiter struct {
	wake  chan struct{}
	woken bool
}

// call is a step that code waits for.
type call struct {
	*stepOptions
	kind     pb.StepKind
	step     *pb.NewStep
	write    func() error // spells the input, if any
	ordinal  int32
	record   *pb.StepRecord
	err      error
	ended    bool
	forsaken bool
	stopping bool
	waits    *waiter
}

func newExecution(base held) *execution {
	x := &execution{
		held: base, record: newRecord(),
		open: map[stepKey]*call{}, scopes: map[string]*scope{}, waiters: map[*waiter]bool{},
		cancelDue: base.task.GetCancelRequested(), reason: base.task.GetCancelReason(),
		queries: newQueries(), poked: make(chan struct{}, 1),
	}
	x.ctx, x.end = context.WithCancel(withRemoteTrace(context.Background(), x.task))
	x.root = newScope("", nil)
	x.scopes[""] = x.root
	x.record.extend(x.task.GetSteps())
	if x.task.GetMoreSteps() {
		x.early = map[stepKey]*pb.StepRecord{}
	}
	for _, update := range x.task.GetUpdates() {
		x.out.reject(update)
	}
	return x
}

// begin runs the code.
func (x *execution) begin() {
	x.active = 1
	go x.drive()
	go x.main(x.worker.workflows[x.task.GetType()])
}

// main calls the workflow function, and hands over the run's end.
func (x *execution) main(run func(Workflow, *pb.Payload) (*pb.Payload, error)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.early != nil && !x.readSteps() {
		return
	}
	x.record.open(x.root)
	var result *pb.Payload
	var err error = errExited
	defer func() {
		if !x.isDropped {
			x.finish(result, err)
		}
	}()
	result, err = guarded(func() (*pb.Payload, error) { return run(Workflow{x, x.root}, x.task.GetInput()) })
}

// finish takes in what the code came to.
func (x *execution) finish(result *pb.Payload, err error) {
	var again *continueAsNew
	switch {
	case err == nil:
		x.outcome = &pb.Progress{End: &pb.Progress_Complete{Complete: &pb.CompleteRun{Result: result}}}
	case errors.As(err, &again):
		x.outcome = &pb.Progress{End: &pb.Progress_ContinueAsNew{ContinueAsNew: again.end}}
	case errors.Is(err, ErrRunCancelled) && x.cancelDue:
		details, _ := x.worker.converter.ToPayload(x.reason)
		x.outcome = &pb.Progress{End: &pb.Progress_Cancelled{Cancelled: &pb.CancelledRun{Details: details}}}
	default:
		x.outcome = &pb.Progress{End: &pb.Progress_Fail{Fail: &pb.FailRun{Failure: failureOf(err, x.worker.converter)}}}
	}
	x.active--
	x.poke()
}

// readSteps reads the recorded steps that the task had no room for. False if they could not be read.
func (x *execution) readSteps() bool {
	var steps []*pb.StepRecord
	var err error
	x.outside(func() { steps, err = x.moreSteps() })
	x.mustHold()
	if err != nil {
		slog.Warn("stepwell: the steps of a run could not be read", "run_id", x.task.GetRunId(), "error", err)
		x.giveBack("its steps could not be read")
		return false
	}
	x.record.extend(steps)
	early := x.early
	x.early = nil
	for _, found := range early {
		x.feed(found)
	}
	return true
}

func (x *execution) moreSteps() (all []*pb.StepRecord, err error) {
	client, before := x.worker.client, x.task.GetSteps()
	request := &pb.ListTaskStepsRequest{Namespace: client.options.namespace, Ref: x.task.GetRef()}
	for more := true; more; {
		if len(before) > 0 {
			request.AfterOrdinal = before[len(before)-1].GetOrdinal()
		}
		page, err := invoke(x.ctx, client, client.Workers.ListTaskSteps, request)
		if err != nil {
			return nil, err
		}
		before = page.GetSteps()
		more = page.GetMoreSteps() && len(before) > 0
		all = append(all, before...)
	}
	return all, nil
}

// drive takes in what is posted, and tells what is new.
func (x *execution) drive() {
	for {
		select {
		case <-x.poked:
		case <-x.ctx.Done():
			return
		}
		x.postMu.Lock()
		posted := x.posted
		x.posted = nil
		x.postMu.Unlock()
		x.mu.Lock()
		for _, act := range posted {
			if !x.isDropped {
				act()
			}
		}
		x.turn()
		x.queries.answer(x)
		x.mu.Unlock()
	}
}

// post has something done by the run's own goroutine, with mu held.
func (x *execution) post(act func()) {
	x.postMu.Lock()
	x.posted = append(x.posted, act)
	x.postMu.Unlock()
	x.poke()
}

// poke has the run look whether there is something to tell.
func (x *execution) poke() { poke(x.poked) }

// --- waiting -----------------------------------------------------------------------------------------------------------

// park waits until somebody wakes it, and lets others of the run go on meanwhile. A dropped run's code ends here, after
// what it deferred.
func (x *execution) park(w *waiter) {
	x.waiters[w] = true
	x.active--
	if x.active == 0 {
		x.poke()
	}
	x.mu.Unlock()
	<-w.wake
	x.mu.Lock()
	delete(x.waiters, w)
	x.mustHold()
}

func (x *execution) wake(w *waiter) {
	if !w.woken {
		w.woken = true
		x.active++
		close(w.wake)
	}
}

// mustHold ends the code of a run that is somebody else's.
func (x *execution) mustHold() {
	if x.isDropped {
		runtime.Goexit()
	}
}

// outside calls a function without mu: it may take its time.
func (x *execution) outside(act func()) {
	x.busy++
	x.active--
	if x.active == 0 {
		x.poke()
	}
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		x.busy--
		x.active++
	}()
	act()
}

// recorded waits until the service has recorded a step.
func (x *execution) recorded(e *entry) {
	w := &waiter{wake: make(chan struct{})}
	e.acks = append(e.acks, w)
	x.unrecorded++
	x.park(w)
}

// --- calls -------------------------------------------------------------------------------------------------------------

// await makes a call, and waits until its step has ended.
func (x *execution) await(s *scope, c *call) (*pb.StepRecord, error) {
	found, err := x.make(s, c)
	if err != nil || found != nil {
		return found, err
	}
	c.waits = &waiter{wake: make(chan struct{})}
	s.waiting = c
	defer func() { s.waiting = nil }()
	x.park(c.waits)
	return c.record, c.err
}

// make makes a call: gives its step if that has ended, else it will be resolved.
func (x *execution) make(s *scope, c *call) (*pb.StepRecord, error) {
	found, isRecorded, err := x.recall(s, c.kind, c.name, c.key, c)
	if found != nil || err != nil || isRecorded {
		return found, err
	}
	if c.write != nil {
		if err := c.write(); err != nil {
			return nil, err
		}
	}
	x.addStep(s, c.kind, c.name, c.key, c.step, c)
	return nil, nil
}

// recall looks a call up in the record, and counts it if it is there. Gives its record if that has ended.
func (x *execution) recall(
	s *scope, kind pb.StepKind, name, key string, c *call,
) (found *pb.StepRecord, isRecorded bool, err error) {
	x.mustHold()
	s.mustBeFree(name)
	if err := x.meet(s, atCall, nil); err != nil {
		return nil, false, err
	}
	stepKey := s.keyFor(name, key)
	found = x.record.steps[stepKey]
	if found == nil {
		if x.cancelDue && !s.cancelSeen {
			return nil, false, x.hear(s, atCall)
		}
		return nil, false, nil
	}
	delete(x.record.steps, stepKey)
	x.out.replay(s, kind, name, key)
	if err := x.meet(s, inCall, found); err != nil {
		return nil, true, err
	}
	switch {
	case found.GetKind() != kind:
		x.stray(fmt.Sprintf("step %s was recorded as another kind of step", name))
	case hasEnded(found):
		// The code got past any other.
		isLast := s.count == len(s.recorded)
		if isLast && x.hasYetToHear(s, found) {
			return nil, true, x.hear(s, inCall)
		}
		return found, true, nil
	}
	if c != nil {
		c.ordinal = found.GetOrdinal()
		x.open[stepKey] = c
	}
	return nil, true, nil
}

// stray takes note that the code has left the record. The service compares, and will pause the run.
func (x *execution) stray(problem string) {
	slog.Error("a run's code has left its record", "run_id", x.task.GetRunId(), "problem", problem)
	x.isBroken = true
	x.poke()
}

// addStep counts a new step and puts it on its way.
func (x *execution) addStep(s *scope, kind pb.StepKind, name, key string, step *pb.NewStep, c *call) *entry {
	found := s.keyFor(name, key)
	s.advance(kind, name, key)
	step.Scope, step.Name, step.Key, step.Occurrence = found.scope, found.name, found.key, found.occurrence
	e := &entry{NewStep: step, scope: s, call: c, count: s.count, order: s.order}
	x.out.calls++
	x.out.pending = append(x.out.pending, e)
	if c != nil {
		x.open[found] = c
	}
	x.poke()
	return e
}

// addMarker records a fact.
func (x *execution) addMarker(s *scope, name, key string, value *pb.Payload) {
	step := &pb.NewStep{Kind: &pb.NewStep_Marker{Marker: &pb.MarkerStep{Value: value}}}
	x.out.lastMarker = x.addStep(s, pb.StepKind_STEP_KIND_MARKER, name, key, step, nil)
}

// --- cancellation ------------------------------------------------------------------------------------------------------

// meet gives the cancellation again where the record has it. givenUp is the step that the branch waited for: if that is
// open, the worker before was lost between the two.
func (x *execution) meet(s *scope, place string, givenUp *pb.StepRecord) error {
	mark := s.marks[s.count]
	if mark.GetName() != cancelMark || mark.GetResult().GetJson() != place {
		return nil
	}
	delete(s.marks, s.count)
	if givenUp != nil && !hasEnded(givenUp) {
		x.out.cancelOrdinals = append(x.out.cancelOrdinals, givenUp.GetOrdinal())
		x.poke()
	}
	delete(x.record.steps, keyOf(mark))
	x.out.replay(s, mark.GetKind(), mark.GetName(), mark.GetKey())
	s.cancelSeen = true
	x.cancelDue = true
	return x.cancelled()
}

// hear records that a branch hears of the cancellation here.
func (x *execution) hear(s *scope, place string) error {
	s.cancelSeen = true
	x.addMarker(s, cancelMark, "", &pb.Payload{Body: &pb.Payload_Json{Json: place}})
	return x.cancelled()
}

// hasYetToHear tells whether the request ended a step whose branch is to hear of it in place of that end.
func (x *execution) hasYetToHear(s *scope, found *pb.StepRecord) bool {
	return x.cancelDue && !s.cancelSeen && found.GetState() == pb.StepState_STEP_STATE_CANCELLED
}

func (x *execution) cancelled() error {
	if x.reason == "" {
		return ErrRunCancelled
	}
	return fmt.Errorf("%w: %s", ErrRunCancelled, x.reason)
}

// tellCancellation lets all branches hear of it that wait for a step, but for those that wait for an activity's own end
// first; others hear at their next call. Tells whether any did.
func (x *execution) tellCancellation() bool {
	if !x.cancelDue {
		return false
	}
	told := false
	for _, s := range x.scopes {
		c := s.waiting
		if s.cancelSeen || c == nil || c.ended {
			continue
		}
		if c.patient {
			x.out.stop(c)
			continue
		}
		c.err = x.hear(s, inCall)
		x.out.giveUp(c)
		x.wake(c.waits)
		told = true
	}
	return told
}

// --- between the code and the service ----------------------------------------------------------------------------------

// feed takes in a step that has ended; one that nobody waits for (yet) changes the record only.
func (x *execution) feed(found *pb.StepRecord) {
	key := keyOf(found)
	if x.early != nil {
		x.early[key] = found
		return
	}
	c := x.open[key]
	if c == nil {
		if x.record.steps[key] != nil {
			x.record.steps[key] = found
		}
		return
	}
	if !hasEnded(found) {
		return
	}
	delete(x.open, key)
	c.ended = true
	if !c.forsaken && c.waits != nil {
		if s := x.scopes[key.scope]; x.hasYetToHear(s, found) {
			c.err = x.hear(s, inCall)
		} else {
			c.record = found
		}
		x.wake(c.waits)
	}
}

// advance takes in an Advance: it costs a slot until the run says again that it waits.
func (x *execution) advance(news *pb.Advance) {
	if news.GetCancelRequested() {
		x.cancelDue, x.reason = true, news.GetCancelReason()
	}
	for _, update := range news.GetUpdates() {
		x.out.reject(update)
	}
	x.out.toldWaiting = false
	for _, found := range news.GetSteps() {
		x.feed(found)
	}
}

// answered takes in that the Progress under way is recorded.
func (x *execution) answered(result *pb.ReportResult) {
	for _, e := range x.out.answer(result.GetOrdinals()) {
		for _, w := range e.acks {
			x.unrecorded--
			x.wake(w)
		}
		e.acks = nil
	}
	before := len(x.open)
	for _, found := range result.GetSteps() {
		x.feed(found)
	}
	if len(x.open) != before {
		x.out.toldWaiting = false
	}
}

// turn sees whether there is something to tell, and tells it.
func (x *execution) turn() {
	isOver := x.outcome != nil
	if x.isDropped || x.out.sent != nil || !isOver && (x.active > 0 || x.tellCancellation()) {
		return
	}
	if x.active == 0 && !x.caughtUp && x.early == nil {
		x.caughtUp = true
	}
	isQuiet := x.active == 0 && x.busy == 0 && x.unrecorded == 0
	hasNews := x.out.hasSteps() || len(x.queries.changed) > 0 || isOver
	switch {
	case isQuiet && !hasNews && isClosed(x.worker.leaving):
		x.giveBack("the worker is leaving")
		return
	case !hasNews && (x.out.toldWaiting || !isQuiet):
		return
	case isOver:
		// The service compares the run's own line with the record at the end, whether it had calls of late or not.
		x.out.note(x.root)
	}
	x.worker.report(x, progressing(x.out.take(isQuiet, x.outcome, x.record, x.queries.take())))
}

// giveBack returns the run to its queue.
func (x *execution) giveBack(reason string) {
	x.worker.report(x, released(reason))
	x.drop()
}

// cancel has the code hear that somebody asked the run to end.
func (x *execution) cancel(reason string) {
	x.post(func() { x.cancelDue, x.reason = true, reason })
}

// stop drops the run, for those that must not wait.
func (x *execution) stop() { x.post(x.drop) }

// drop stops the code: the run is somebody else's now, or has ended. Nothing more is told.
func (x *execution) drop() {
	if x.isDropped {
		return
	}
	x.isDropped = true
	x.end()
	for w := range x.waiters {
		x.wake(w)
	}
}

func hasEnded(found *pb.StepRecord) bool {
	return found.GetState() >= pb.StepState_STEP_STATE_COMPLETED
}
