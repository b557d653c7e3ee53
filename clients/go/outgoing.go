package stepwell

import (
	"google.golang.org/protobuf/proto"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	mostSteps = 256
	// mostScopes are told of at a time; the service takes 20,000.
	mostScopes = 10_000
)

// entry is a new step on its way to the record, and who waits for it to be there.
type entry struct {
	*pb.NewStep
	scope *scope
	call  *call
	count int
	order orderHash
	acks  []*waiter
}

// outgoing gathers what a run has to tell until one Progress takes it; one is under way at a time. So what gathers while
// the service records the last one is the next, and a refused one has no successors.
type outgoing struct {
	pending        []*entry
	noted          []*scope
	untold         int // how many of them had no room in the last message
	cancelOrdinals []int32
	stopOrdinals   []int32
	rejections     []*pb.UpdateRejection
	sent           *pb.Progress
	sentEntries    []*entry
	toldWaiting    bool
	lastMarker     *entry
	calls          int
}

// replay counts a call that is recorded.
func (o *outgoing) replay(s *scope, kind pb.StepKind, name, key string) {
	o.calls++
	s.replay(kind, name, key)
	o.note(s)
}

// note takes a branch that replayed calls, or has returned.
func (o *outgoing) note(s *scope) {
	if !s.noted {
		s.noted = true
		o.noted = append(o.noted, s)
	}
}

// hasSteps tells whether something must be recorded.
func (o *outgoing) hasSteps() bool {
	return o.untold+len(o.pending)+len(o.cancelOrdinals)+len(o.stopOrdinals)+len(o.rejections) > 0
}

// giveUp lets the service cancel the step of a call that nobody waits for, as soon as its ordinal is known.
func (o *outgoing) giveUp(c *call) {
	c.forsaken = true
	if c.ordinal > 0 {
		o.cancelOrdinals = append(o.cancelOrdinals, c.ordinal)
	}
}

// stop lets the service ask the activity of a call to stop, once, as soon as its ordinal is known.
func (o *outgoing) stop(c *call) {
	if c.stopping {
		return
	}
	c.stopping = true
	if c.ordinal > 0 {
		o.stopOrdinals = append(o.stopOrdinals, c.ordinal)
	}
}

// reject turns an update down: code in this language takes none.
func (o *outgoing) reject(update *pb.Update) {
	failure := &pb.Failure{Message: "the code takes no updates", Type: "UnknownUpdate", NonRetryable: true}
	o.rejections = append(o.rejections, &pb.UpdateRejection{UpdateId: update.GetUpdateId(), Failure: failure})
}

// take makes the next Progress. isQuiet: no code of the run is at work, nor waits for a mere record.
func (o *outgoing) take(isQuiet bool, end *pb.Progress, record *record, published map[string]*pb.Payload) *pb.Progress {
	room := messageMost
	entries := fitting(&o.pending, mostSteps, &room)
	progress := &pb.Progress{Scopes: o.takeStates(entries), Published: published, StopOrdinals: o.stopOrdinals}
	o.stopOrdinals = nil
	for _, e := range entries {
		progress.Steps = append(progress.Steps, e.NewStep)
	}
	count := min(len(o.rejections), mostSteps)
	progress.Rejections, o.rejections = o.rejections[:count:count], o.rejections[count:]
	left := o.untold > 0 || len(o.pending) > 0 || len(o.rejections) > 0
	if !left {
		progress.CancelOrdinals, o.cancelOrdinals = o.cancelOrdinals, nil
	}
	progress.Waiting = isQuiet && !left && end == nil
	if !left {
		o.tellEnd(progress, end, record)
	}
	o.sent, o.sentEntries, o.toldWaiting = progress, entries, progress.Waiting
	return progress
}

func (o *outgoing) tellEnd(progress *pb.Progress, end *pb.Progress, record *record) {
	if progress.End = end.GetEnd(); progress.GetComplete() == nil && progress.GetContinueAsNew() == nil {
		return
	}
	// The code has made all its calls: so branches are missed that it has not entered.
	progress.Calls = proto.Int32(int32(o.calls))
	for _, path := range record.left() {
		progress.Scopes = append(progress.Scopes, &pb.ScopeState{Scope: path, Hash: make([]byte, hashBytes), Closed: true})
	}
}

// takeStates says where the branches stood before these steps, and takes the steps for told.
func (o *outgoing) takeStates(entries []*entry) []*pb.ScopeState {
	var states []*pb.ScopeState
	told := map[*scope]*pb.ScopeState{}
	tell := func(s *scope) {
		if told[s] == nil {
			told[s] = s.state()
			states = append(states, told[s])
		}
	}
	for _, e := range entries {
		tell(e.scope)
	}
	// A branch whose steps are yet to be sent is told of with them.
	later := map[*scope]bool{}
	for _, e := range o.pending {
		later[e.scope] = true
	}
	o.untold = 0
	for _, s := range o.noted {
		switch {
		case told[s] != nil || later[s]:
		case len(states) < mostScopes:
			tell(s)
		default:
			o.untold++
		}
	}
	for _, e := range entries {
		e.scope.toldCount, e.scope.toldOrder = e.count, e.order
	}
	// A branch that has returned says so in the next one, if it has steps in this one, or still to send.
	kept := o.noted[:0]
	for _, s := range o.noted {
		if told[s] == nil || s.closed && !told[s].GetClosed() {
			kept = append(kept, s)
		} else {
			s.noted = false
		}
	}
	clear(o.noted[len(kept):])
	o.noted = kept
	return states
}

// answer takes in that what was sent is recorded.
func (o *outgoing) answer(ordinals []int32) []*entry {
	entries := o.sentEntries
	o.sent, o.sentEntries = nil, nil
	for place, e := range entries {
		if e == o.lastMarker {
			o.lastMarker = nil
		}
		if e.call == nil || place >= len(ordinals) {
			continue
		}
		e.call.ordinal = ordinals[place]
		if e.call.forsaken {
			o.cancelOrdinals = append(o.cancelOrdinals, e.call.ordinal)
		} else if e.call.stopping {
			o.stopOrdinals = append(o.stopOrdinals, e.call.ordinal)
		}
	}
	return entries
}
