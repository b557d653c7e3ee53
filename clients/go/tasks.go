package stepwell

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	// messageMost is what a message should have at most, where one thing of it is not larger.
	messageMost = 1_000_000
	// reportMost is what one thing may have: the service takes messages of 4 MiB, and there is something around it.
	reportMost = 4<<20 - 128<<10
)

// task is what the worker holds: a run in memory, or an attempt at an activity.
type task interface {
	base() *held
	// begin begins the code.
	begin()
	// stop ends the code. What it comes to is not reported.
	stop()
	// cancel lets the code hear that it should end.
	cancel(reason string)
}

// held is what all tasks have. One report of a task is under way at a time.
type held struct {
	worker *Worker
	task   *pb.Task
	report *pb.Report // the one that is not answered yet; guarded by the worker's mu
	again  time.Time  // when it goes out again, if it was refused for now
}

func (h *held) base() *held { return h }

// find gives the task that a word is about; words about an older grant, or about what is not held, are passed over.
func find[T task](w *Worker, ref *pb.TaskRef) (T, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found, ok := w.tasks[ref.GetTaskId()].(T)
	return found, ok && found.base().task.GetRef().GetToken() == ref.GetToken()
}

func (w *Worker) held() []task {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]task, 0, len(w.tasks))
	for _, t := range w.tasks {
		all = append(all, t)
	}
	return all
}

// received takes in a message: assigns first, since all else that it says may be about them.
func (w *Worker) received(message *pb.ConnectResponse) {
	for _, given := range message.GetAssigns() {
		w.assign(given)
	}
	for _, cancel := range message.GetCancels() {
		if t, ok := find[task](w, cancel.GetRef()); ok {
			t.cancel(cancel.GetReason())
		}
	}
	for _, revoke := range message.GetRevokes() {
		if t, ok := find[task](w, revoke.GetRef()); ok {
			w.drop(t)
		}
	}
	for _, result := range message.GetResults() {
		w.answered(result)
	}
	for _, beat := range message.GetHeartbeats() {
		if a, ok := find[*attempt](w, beat.GetRef()); ok {
			a.beatAnswered(beat)
		}
	}
	for _, advance := range message.GetAdvances() {
		if x, ok := find[*execution](w, advance.GetRef()); ok {
			x.post(func() { x.advance(advance) })
		}
	}
	for _, query := range message.GetQueries() {
		if x, ok := find[*execution](w, query.GetRef()); ok {
			x.post(func() { x.queries.waiting = append(x.queries.waiting, query) })
		}
	}
	if ping := message.GetPing(); ping != 0 {
		w.say(func(next *pb.ConnectRequest) { next.Pong = ping })
	}
}

// assign takes a task, and begins. One that is known, or older than the one that is at work, is only acknowledged.
func (w *Worker) assign(given *pb.Task) {
	ref := given.GetRef()
	var former task
	w.say(func(next *pb.ConnectRequest) {
		next.Acks = append(next.Acks, ref)
		former = w.tasks[ref.GetTaskId()]
	})
	if former != nil {
		if former.base().task.GetRef().GetToken() >= ref.GetToken() {
			return
		}
		w.drop(former)
	}
	var t task
	var isKnown bool
	if given.GetKind() == pb.TaskKind_TASK_KIND_RUN {
		t, isKnown = newExecution(held{worker: w, task: given}), w.workflows[given.GetType()] != nil
	} else {
		t, isKnown = newAttempt(held{worker: w, task: given}), w.activities[given.GetType()] != nil
	}
	w.mu.Lock()
	w.tasks[ref.GetTaskId()] = t
	w.mu.Unlock()
	if isKnown {
		t.begin()
	} else {
		w.report(t, released(given.GetType()+" is not known here"))
	}
}

// drop forgets a task that is another's by now, or has ended, and ends its code.
func (w *Worker) drop(t task) {
	h := t.base()
	w.mu.Lock()
	if id := h.task.GetRef().GetTaskId(); w.tasks[id] == t {
		delete(w.tasks, id)
	}
	delete(w.reported, h.report.GetCorrelation())
	h.report, h.again = nil, time.Time{}
	isIdle := len(w.tasks) == 0
	w.mu.Unlock()
	t.stop()
	if isIdle {
		poke(w.idle)
	}
}

// dropAll drops all tasks, and what was to be said of them: the session is over, and its leases with it.
func (w *Worker) dropAll() {
	for _, t := range w.held() {
		w.drop(t)
	}
	w.say(func(next *pb.ConnectRequest) { proto.Reset(next) })
}

// welcomed drops the tasks that are held no more, unless something was reported of them that was never answered: all of
// that is said again, in its order.
func (w *Worker) welcomed(welcome *pb.Welcome) {
	slog.Info("stepwell: connected", "session", welcome.GetSessionId(), "resumed", welcome.GetResumed())
	if !isClosed(w.connected) {
		close(w.connected)
	}
	tokens := map[string]int64{}
	for _, ref := range welcome.GetHeld() {
		tokens[ref.GetTaskId()] = ref.GetToken()
	}
	var over []task
	w.say(func(next *pb.ConnectRequest) {
		w.maxItems = orElse(int(welcome.GetMaxItems()), w.maxItems)
		next.Acks, next.Answers, next.Reports, next.Drain = nil, nil, nil, isClosed(w.leaving)
		for id, t := range w.tasks {
			h := t.base()
			if h.report != nil && welcome.GetResumed() {
				h.again = time.Time{}
				next.Reports = append(next.Reports, h.report)
			} else if tokens[id] != h.task.GetRef().GetToken() {
				over = append(over, t)
			}
		}
		slices.SortFunc(next.Reports, func(a, b *pb.Report) int { return cmp.Compare(a.Correlation, b.Correlation) })
	})
	for _, t := range over {
		w.drop(t)
	}
}

// report tells what came of a task, unless it is another's by now, or something was told of it that is not answered yet.
// It is kept until it is.
func (w *Worker) report(t task, report *pb.Report) {
	text, err := proto.Marshal(report)
	if err == nil && len(text) > reportMost {
		err = fmt.Errorf("the report has %d bytes, and may have %d: send a reference", len(text), reportMost)
	}
	if err != nil {
		// It would end the stream, and each one after it.
		report = failing(t, &Error{Code: codes.InvalidArgument, Reason: ErrInvalidField.Reason, Message: err.Error()})
	}
	w.say(func(next *pb.ConnectRequest) {
		h := t.base()
		if w.tasks[h.task.GetRef().GetTaskId()] != t || h.report != nil {
			return
		}
		if a, ok := t.(*attempt); ok && a.beat != nil {
			if report.GetComplete() == nil {
				// What the next attempt needs to know goes out before it can begin.
				next.Heartbeats = append(next.Heartbeats, a.beat)
			}
			a.beat = nil
		}
		w.correlation++
		report.Ref, report.Correlation = h.task.GetRef(), w.correlation
		h.report, w.reported[w.correlation] = report, t
		next.Reports = append(next.Reports, report)
	})
}

// answered takes in what became of a report.
func (w *Worker) answered(result *pb.ReportResult) {
	w.mu.Lock()
	t := w.reported[result.GetCorrelation()]
	if t == nil {
		w.mu.Unlock()
		return
	}
	h := t.base()
	report := h.report
	if result.GetRemedy() == pb.ReportResult_REMEDY_REPEAT {
		h.again = time.Now().Add(result.GetRepeatDelay().AsDuration())
		w.mu.Unlock()
		return
	}
	delete(w.reported, report.GetCorrelation())
	h.report = nil
	w.mu.Unlock()
	isRefused := result.GetStatus() == pb.ReportResult_STATUS_REFUSED
	failed := fromStatus(result.GetError())
	if isRefused {
		slog.Warn("stepwell: a report was refused", "type", h.task.GetType(), "run_id", h.task.GetRunId(),
			"job_id", h.task.GetJobId(), "remedy", result.GetRemedy(), "error", failed)
	}
	progress := report.GetProgress()
	switch {
	case result.GetRemedy() == pb.ReportResult_REMEDY_FAIL:
		w.report(t, failing(t, failed))
	case isRefused || progress == nil || progress.GetEnd() != nil:
		w.drop(t)
	default:
		x := t.(*execution)
		x.post(func() { x.answered(result) })
	}
}

// failing is reported in the place of what can't be recorded.
func failing(t task, failed *Error) *pb.Report {
	failure := failureOf(failed, nil)
	failure.NonRetryable = true
	if _, isRun := t.(*execution); isRun {
		return progressing(&pb.Progress{End: &pb.Progress_Fail{Fail: &pb.FailRun{Failure: failure}}})
	}
	return &pb.Report{Outcome: &pb.Report_Fail{Fail: &pb.FailActivity{Failure: failure}}}
}

func progressing(progress *pb.Progress) *pb.Report {
	return &pb.Report{Outcome: &pb.Report_Progress{Progress: progress}}
}

func released(reason string) *pb.Report {
	return &pb.Report{Outcome: &pb.Report_Release{Release: &pb.ReleaseTask{Reason: reason}}}
}

// sendPutOff says what was put off until now: reports that were refused for a while, and heartbeats.
func (w *Worker) sendPutOff(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.tasks {
		if h := t.base(); !h.again.IsZero() && now.After(h.again) {
			h.again = time.Time{}
			w.next.Reports = append(w.next.Reports, h.report)
		}
		if a, ok := t.(*attempt); ok && a.beat != nil && now.Sub(a.beaten) >= a.pause() {
			w.next.Heartbeats = append(w.next.Heartbeats, a.beat)
			a.beat, a.beaten = nil, now
		}
	}
	poke(w.filled)
}

// say adds to what is to be said.
func (w *Worker) say(add func(next *pb.ConnectRequest)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	add(w.next)
	poke(w.filled)
}

func poke(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// take takes the next message. Heartbeats go first, so that none is later than its task's end.
func (w *Worker) take() *pb.ConnectRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	next, room := w.next, messageMost
	message := &pb.ConnectRequest{Ping: next.Ping, Pong: next.Pong, Drain: next.Drain}
	next.Ping, next.Pong, next.Drain = 0, 0, false
	message.Heartbeats = fitting(&next.Heartbeats, w.maxItems, &room)
	if len(next.Heartbeats) == 0 {
		message.Reports = fitting(&next.Reports, w.maxItems, &room)
	}
	message.Acks = fitting(&next.Acks, w.maxItems, &room)
	message.Answers = fitting(&next.Answers, w.maxItems, &room)
	return message
}

// fitting takes out what there is room for: one thing of any size, more while they are small.
func fitting[T proto.Message](items *[]T, most int, room *int) []T {
	count := 0
	for count < min(most, len(*items)) {
		size := proto.Size((*items)[count])
		if size > *room && *room < messageMost {
			break
		}
		*room -= size
		count++
	}
	taken := (*items)[:count:count]
	*items = (*items)[count:]
	return taken
}
