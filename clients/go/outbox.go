package stepwell

import (
	"fmt"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	messageMost = 1_000_000
	// reportMost is what one item may have: the service takes messages of 4 MiB, and there is something around it.
	reportMost = 4<<20 - 128<<10
)

// reporter hears what became of a report. It is called by the stream's reader, and must not wait.
type reporter interface {
	reportAnswered(result *pb.ReportResult)
}

type unanswered struct {
	report   *pb.Report
	reporter reporter
}

// outbox holds acknowledgements, reports and heartbeats that are not sent yet, and reports that are not answered yet. A
// report stays until its answer comes: after a reconnect that resumes the session it is sent again.
type outbox struct {
	mu          sync.Mutex
	ping        int64
	pong        int64
	drain       bool
	maxItems    int
	acks        []*pb.TaskRef
	reports     []*pb.Report
	heartbeats  []*pb.TaskHeartbeat
	answers     []*pb.QueryAnswer
	unanswered  map[int64]unanswered
	correlation int64
	filled      chan struct{}
	answered    chan struct{} // told whenever nothing is unanswered
}

func newOutbox() *outbox {
	return &outbox{
		maxItems: 256, unanswered: map[int64]unanswered{}, filled: make(chan struct{}, 1), answered: make(chan struct{}, 1),
	}
}

func poke(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default:
	}
}

// acknowledge says that a task has come.
func (o *outbox) acknowledge(ref *pb.TaskRef) {
	o.mu.Lock()
	o.acks = append(o.acks, ref)
	o.mu.Unlock()
	poke(o.filled)
}

// report sends a report, which needs no correlation yet; the reporter hears the answer.
func (o *outbox) report(by reporter, report *pb.Report) {
	if size := proto.Size(report); size > reportMost {
		// It would end the stream, and each one after it.
		go by.reportAnswered(tooLarge(report, size))
		return
	}
	o.mu.Lock()
	o.correlation++
	report.Correlation = o.correlation
	o.unanswered[o.correlation] = unanswered{report, by}
	o.reports = append(o.reports, report)
	o.acks = slices.DeleteFunc(o.acks, func(ref *pb.TaskRef) bool { return isSame(ref, report.GetRef()) })
	o.mu.Unlock()
	poke(o.filled)
}

// heartbeat sends a sign of life of an activity; only the last of one activity goes into a message.
func (o *outbox) heartbeat(beat *pb.TaskHeartbeat) {
	o.mu.Lock()
	o.heartbeats = slices.DeleteFunc(o.heartbeats, func(other *pb.TaskHeartbeat) bool {
		return isSame(other.GetRef(), beat.GetRef())
	})
	o.heartbeats = append(o.heartbeats, beat)
	o.mu.Unlock()
	poke(o.filled)
}

// answerQuery sends the answer to a query. One that is lost with its stream is asked for again.
func (o *outbox) answerQuery(answer *pb.QueryAnswer) {
	if size := proto.Size(answer); size > reportMost {
		failure := &pb.Failure{Message: fmt.Sprintf("the answer is too large: it has %d bytes", size), Type: "LimitExceeded"}
		answer.Outcome = &pb.QueryAnswer_Failure{Failure: failure}
	}
	o.mu.Lock()
	o.answers = append(o.answers, answer)
	o.mu.Unlock()
	poke(o.filled)
}

// say changes what stands beside the items.
func (o *outbox) say(change func()) {
	o.mu.Lock()
	change()
	o.mu.Unlock()
	poke(o.filled)
}

// answer hands an answer to whoever reported.
func (o *outbox) answer(result *pb.ReportResult) {
	o.mu.Lock()
	found, known := o.unanswered[result.GetCorrelation()]
	delete(o.unanswered, result.GetCorrelation())
	isEmpty := len(o.unanswered) == 0
	o.mu.Unlock()
	if known {
		found.reporter.reportAnswered(result)
	}
	if isEmpty {
		poke(o.answered)
	}
}

func (o *outbox) isAnswered() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.unanswered) == 0
}

// resume queues all unanswered reports again, in their order: a new stream carries the same session.
func (o *outbox) resume() {
	o.mu.Lock()
	o.reports = o.reports[:0:0]
	for _, found := range o.unanswered {
		o.reports = append(o.reports, found.report)
	}
	slices.SortFunc(o.reports, func(a, b *pb.Report) int { return int(a.GetCorrelation() - b.GetCorrelation()) })
	o.acks, o.answers, o.ping, o.pong = nil, nil, 0, 0
	o.mu.Unlock()
	poke(o.filled)
}

// clear forgets everything: the session is over, and nobody would take the reports.
func (o *outbox) clear() {
	o.mu.Lock()
	o.reports, o.acks, o.heartbeats, o.answers = nil, nil, nil, nil
	clear(o.unanswered)
	o.mu.Unlock()
	poke(o.answered)
}

// reported gives the ids of the tasks of unanswered reports.
func (o *outbox) reported() map[string]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	found := map[string]bool{}
	for _, each := range o.unanswered {
		found[each.report.GetRef().GetTaskId()] = true
	}
	return found
}

// take takes the next message, nil if there is nothing to say. Heartbeats go first, so that none is later than its
// task's end.
func (o *outbox) take() *pb.ConnectRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	message := &pb.ConnectRequest{Ping: o.ping, Pong: o.pong, Drain: o.drain}
	o.ping, o.pong, o.drain = 0, 0, false
	room := room{items: o.maxItems, bytes: messageMost}
	message.Heartbeats, o.heartbeats = fitting(&room, o.heartbeats)
	if len(o.heartbeats) == 0 {
		message.Reports, o.reports = fitting(&room, o.reports)
	}
	message.Acks, o.acks = cut(o.acks, room.items)
	room.items = o.maxItems
	message.Answers, o.answers = fitting(&room, o.answers)
	if len(o.reports)+len(o.heartbeats)+len(o.acks)+len(o.answers) > 0 {
		poke(o.filled)
	}
	if len(message.Reports)+len(message.Heartbeats)+len(message.Acks)+len(message.Answers) == 0 &&
		message.Ping == 0 && message.Pong == 0 && !message.Drain {
		return nil
	}
	return message
}

// room is what a message has left.
type room struct {
	items, bytes int
	isTaken      bool
}

// fitting takes what there is room for: one item of any size, more while they are small.
func fitting[T proto.Message](left *room, items []T) (taken, rest []T) {
	count := 0
	for count < min(len(items), left.items) {
		size := proto.Size(items[count])
		if left.isTaken && size > left.bytes {
			break
		}
		left.bytes -= size
		left.isTaken = true
		count++
	}
	left.items -= count
	return cut(items, count)
}

func isSame(a, b *pb.TaskRef) bool {
	return a.GetTaskId() == b.GetTaskId() && a.GetToken() == b.GetToken()
}

func cut[T any](items []T, count int) (taken, left []T) {
	count = min(count, len(items))
	return items[:count:count], items[count:]
}
