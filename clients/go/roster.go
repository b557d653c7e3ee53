package stepwell

import (
	"context"
	"log/slog"
	"sync"
	"time"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// roster holds the runs in a worker's memory: those at work, and those that wait.
type roster struct {
	client      *Client
	converter   Converter
	outbox      *outbox
	definitions map[string]func(Workflow, *pb.Payload) (*pb.Payload, error)

	mu        sync.Mutex
	runs      map[string]*execution
	isLeaving bool
	idle      chan struct{} // told whenever no run is held
}

func newRoster(client *Client, outbox *outbox) *roster {
	return &roster{
		client: client, converter: client.options.converter, outbox: outbox, runs: map[string]*execution{},
		idle: make(chan struct{}, 1), definitions: map[string]func(Workflow, *pb.Payload) (*pb.Payload, error){},
	}
}

// assign takes a run, and runs its code from the top.
func (r *roster) assign(task *pb.Task) {
	definition := r.definitions[task.GetType()]
	if definition == nil {
		r.giveBack(task.GetRef(), "workflow "+task.GetType()+" is not known here")
		return
	}
	x := newExecution(r, task)
	r.mu.Lock()
	former := r.runs[x.ref.GetTaskId()]
	if former != nil && former.ref.GetToken() >= x.ref.GetToken() {
		// It is known, or older than what is known.
		r.mu.Unlock()
		r.outbox.acknowledge(x.ref)
		return
	}
	r.runs[x.ref.GetTaskId()] = x
	x.isLeaving = r.isLeaving
	r.mu.Unlock()
	if former != nil {
		former.dropSoon()
	}
	for _, update := range task.GetUpdates() {
		x.out.reject(update)
	}
	r.outbox.acknowledge(x.ref)
	x.begin(definition)
}

func (r *roster) find(ref *pb.TaskRef) *execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.runs[ref.GetTaskId()]
	if x == nil || x.ref.GetToken() != ref.GetToken() {
		return nil
	}
	return x
}

func (r *roster) advance(news *pb.Advance) {
	if x := r.find(news.GetRef()); x != nil {
		x.post(func() { x.advance(news) })
	}
}

func (r *roster) ask(query *pb.Query) {
	if x := r.find(query.GetRef()); x != nil {
		x.post(func() { x.queries.ask(x, query) })
	}
}

func (r *roster) cancel(ref *pb.TaskRef, reason string) {
	if x := r.find(ref); x != nil {
		x.post(func() { x.cancelDue, x.reason = true, reason })
	}
}

func (r *roster) revoke(ref *pb.TaskRef) {
	if x := r.find(ref); x != nil {
		r.forget(x)
	}
}

// report sends a Progress.
func (r *roster) report(x *execution, progress *pb.Progress) {
	r.outbox.report(x, &pb.Report{Ref: x.ref, Outcome: &pb.Report_Progress{Progress: progress}})
}

// forget drops a run from memory.
func (r *roster) forget(x *execution) {
	r.remove(x)
	x.dropSoon()
}

func (r *roster) remove(x *execution) {
	r.mu.Lock()
	if r.runs[x.ref.GetTaskId()] == x {
		delete(r.runs, x.ref.GetTaskId())
	}
	isIdle := len(r.runs) == 0
	r.mu.Unlock()
	if isIdle {
		poke(r.idle)
	}
}

// release gives a run back to its queue. It is called with the run's mu held.
func (r *roster) release(x *execution, reason string) {
	r.remove(x)
	x.drop()
	r.giveBack(x.ref, reason)
}

func (r *roster) giveBack(ref *pb.TaskRef, reason string) {
	r.outbox.report(&released{roster: r, ref: ref, reason: reason}, &pb.Report{Ref: ref, Outcome: release(reason)})
}

// released is a run that was given back, of which nothing is left here.
type released struct {
	roster   *roster
	ref      *pb.TaskRef
	reason   string
	refusals refusals
}

// reportAnswered gives a run back once more if that could not be taken just now: else the session would go on holding it.
func (g *released) reportAnswered(result *pb.ReportResult) {
	if result.GetStatus() != pb.ReportResult_STATUS_REFUSED {
		return
	}
	failed := fromStatus(result.GetError())
	if g.refusals.judge(failed) == sendAgain {
		time.AfterFunc(delayOf(failed), func() {
			g.roster.outbox.report(g, &pb.Report{Ref: g.ref, Outcome: release(g.reason)})
		})
	}
}

// reportAnswered takes in what became of a Progress.
func (x *execution) reportAnswered(result *pb.ReportResult) {
	x.post(func() {
		switch {
		case result.GetStatus() == pb.ReportResult_STATUS_REFUSED:
			x.refused(fromStatus(result.GetError()))
		case x.isEnded:
			x.roster.remove(x)
			x.drop()
		default:
			x.answered(result)
		}
	})
}

// refused sends a Progress again if that may help; fails the run if its content is at fault; else drops it, or gives it
// back.
func (x *execution) refused(failed *Error) {
	id := x.task.GetRunId()
	switch x.refusals.judge(failed) {
	case sendAgain:
		time.AfterFunc(delayOf(failed), func() {
			x.post(func() { x.roster.report(x, x.out.sent) })
		})
	case failWith:
		slog.Error("a run fails, since its progress was refused", "run_id", id, "error", failed)
		x.isEnded = true
		x.out.sent = &pb.Progress{End: &pb.Progress_Fail{Fail: &pb.FailRun{Failure: failureFrom(failed)}}}
		x.roster.report(x, x.out.sent)
	case dropTask:
		if failed.Reason == "STEP_ORDER_CHANGED" {
			slog.Error("a run is paused, since its code does not fit its record", "run_id", id, "error", failed)
		} else {
			slog.Info("a run is dropped", "run_id", id, "error", failed)
		}
		x.roster.remove(x)
		x.drop()
	default:
		slog.Error("a run is given back, since its progress was refused", "run_id", id, "error", failed)
		x.roster.release(x, "its progress was refused: "+failed.Reason)
	}
}

// dropSoon drops the run, from a goroutine that does not hold mu and must not wait.
func (x *execution) dropSoon() { x.post(x.drop) }

func (r *roster) all() []*execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := make([]*execution, 0, len(r.runs))
	for _, x := range r.runs {
		found = append(found, x)
	}
	return found
}

// leave gives each run back as soon as what its code is at has been recorded.
func (r *roster) leave() {
	r.mu.Lock()
	r.isLeaving = true
	r.mu.Unlock()
	for _, x := range r.all() {
		x.post(x.leave)
	}
}

// releaseAll gives back what is still held, whatever its code is at. Code that does not give mu away is left alone. One
// whose last report is not answered goes back with the session: there is never another one on its way.
func (r *roster) releaseAll(reason string) {
	reported := r.outbox.reported()
	for _, x := range r.all() {
		r.remove(x)
		if !reported[x.ref.GetTaskId()] {
			r.giveBack(x.ref, reason)
		}
		x.dropSoon()
	}
}

// readSteps reads the recorded steps that a task had no room for.
func (r *roster) readSteps(ctx context.Context, task *pb.Task) ([]*pb.StepRecord, error) {
	after := int32(0)
	if steps := task.GetSteps(); len(steps) > 0 {
		after = steps[len(steps)-1].GetOrdinal()
	}
	var all []*pb.StepRecord
	for {
		request := &pb.ListTaskStepsRequest{
			Namespace: r.client.options.namespace, Ref: task.GetRef(), AfterOrdinal: after,
		}
		page, err := invoke(ctx, r.client, r.client.Workers.ListTaskSteps, request)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetSteps()...)
		if !page.GetMoreSteps() || len(page.GetSteps()) == 0 {
			return all, nil
		}
		after = page.GetSteps()[len(page.GetSteps())-1].GetOrdinal()
	}
}
