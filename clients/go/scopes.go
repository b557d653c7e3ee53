package stepwell

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"strings"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	mostDepth      = 8
	cancelMark     = "__cancelled"
	updatesScope   = "0"
	toldCalls      = 6
	toldBranches   = 8
	hashBytes      = 8
	lengthOfName   = 4
	inCall, atCall = `"wait"`, `"call"`
)

type orderHash [hashBytes]byte

// chained gives the order hash after one more call; proto/order_hash.json holds examples.
func chained(before orderHash, kind pb.StepKind, name string, fingerprint []byte) orderHash {
	text := make([]byte, 0, hashBytes+1+lengthOfName+len(name)+len(fingerprint))
	text = append(text, before[:]...)
	text = append(text, byte(kind))
	text = binary.BigEndian.AppendUint32(text, uint32(len(name)))
	text = append(text, name...)
	text = append(text, fingerprint...)
	sum := sha256.Sum256(text)
	return orderHash(sum[:hashBytes])
}

// stepKey is how a call of the code finds its step.
type stepKey struct {
	scope, name, key string
	occurrence       int32
}

func keyOf(record *pb.StepRecord) stepKey {
	found := stepKey{scope: record.GetScope(), name: record.GetName(), key: record.GetKey()}
	if found.key == "" {
		found.occurrence = record.GetOccurrence()
	}
	return found
}

type madeCall struct {
	kind pb.StepKind
	name string
}

// scope is one branch of a run: how many calls its code made, which of them the service was told of, and what it waits
// for. count and order cover all calls, toldCount and toldOrder those before the steps that are not sent yet.
type scope struct {
	path        string
	parent      *scope
	count       int
	order       orderHash
	toldCount   int
	toldOrder   orderHash
	recorded    []madeCall
	marks       map[int]*pb.StepRecord
	strayedAt   int
	strayed     []*pb.MadeCall // the first calls that are not those recorded
	occurrences map[string]int32
	patches     map[string]bool
	branches    int
	cancelSeen  bool
	shielded    bool
	closed      bool
	noted       bool
	waiting     *call
	busy        bool
}

func newScope(path string, parent *scope) *scope {
	s := &scope{path: path, parent: parent, occurrences: map[string]int32{}, patches: map[string]bool{}}
	if parent != nil {
		s.cancelSeen, s.shielded = parent.cancelSeen, parent.shielded
	}
	return s
}

// branch gives the path of a branch of this one. Panics where they nest too deep.
func (s *scope) branch(number int) string {
	if s.path == "" {
		return strconv.Itoa(number)
	}
	if strings.Count(s.path, "/") >= mostDepth-1 {
		panic("stepwell: branches nest deeper than " + strconv.Itoa(mostDepth))
	}
	return s.path + "/" + strconv.Itoa(number)
}

// mustBeFree panics where a program makes two calls of one branch at once, or one of a branch that has ended.
func (s *scope) mustBeFree(what string) {
	if s.waiting != nil || s.busy {
		panic("stepwell: " + what + ": this branch is at another call; use Parallel or Map, and its own Workflow in each")
	}
	if s.closed {
		panic("stepwell: " + what + ": this branch has ended: a Workflow is of no use outside of its function")
	}
}

func (s *scope) keyFor(name, key string) stepKey {
	if key != "" {
		return stepKey{scope: s.path, name: name, key: key}
	}
	return stepKey{scope: s.path, name: name, occurrence: s.occurrences[name]}
}

// advance counts a call.
func (s *scope) advance(kind pb.StepKind, name, key string) {
	if key == "" {
		s.occurrences[name]++
	}
	made := madeCall{kind, name}
	strays := len(s.strayed) > 0
	if !strays && s.count < len(s.recorded) && s.recorded[s.count] != made {
		strays, s.strayedAt = true, s.count
	}
	if strays && len(s.strayed) < toldCalls {
		s.strayed = append(s.strayed, &pb.MadeCall{Kind: kind, Name: name})
	}
	s.count++
	s.order = chained(s.order, kind, name, nil)
}

// replay counts a call that is recorded; calls after an unsent one stay out of what is told, and so are noticed.
func (s *scope) replay(kind pb.StepKind, name, key string) {
	told := s.toldCount == s.count
	s.advance(kind, name, key)
	if told {
		s.toldCount, s.toldOrder = s.count, s.order
	}
}

// state spells what the service must agree with.
func (s *scope) state() *pb.ScopeState {
	order := s.toldOrder
	state := &pb.ScopeState{
		Scope: s.path, Count: int32(s.toldCount), Hash: order[:], Closed: s.closed && s.toldCount == s.count,
	}
	if len(s.strayed) > 0 {
		state.Difference = &pb.CallDifference{Agreeing: int32(s.strayedAt), Calls: s.strayed}
	}
	return state
}

// record is what the service has recorded of a run; each step is taken out as the code calls it.
type record struct {
	steps    map[stepKey]*pb.StepRecord
	unopened map[string]*recordedScope
	paths    []string
}

type recordedScope struct {
	calls []madeCall
	marks map[int]*pb.StepRecord
}

func newRecord() *record {
	return &record{steps: map[stepKey]*pb.StepRecord{}, unopened: map[string]*recordedScope{}}
}

// extend takes in recorded steps, by ordinal.
func (r *record) extend(records []*pb.StepRecord) {
	for _, found := range records {
		path := found.GetScope()
		branch := r.unopened[path]
		if branch == nil {
			branch = &recordedScope{marks: map[int]*pb.StepRecord{}}
			r.unopened[path] = branch
			r.paths = append(r.paths, path)
		}
		if found.GetKind() == pb.StepKind_STEP_KIND_MARKER {
			branch.marks[len(branch.calls)] = found
		}
		branch.calls = append(branch.calls, madeCall{found.GetKind(), found.GetName()})
		r.steps[keyOf(found)] = found
	}
}

// open tells a new branch what was recorded in it.
func (r *record) open(s *scope) {
	if found := r.unopened[s.path]; found != nil {
		delete(r.unopened, s.path)
		s.recorded, s.marks = found.calls, found.marks
	}
}

// left gives recorded branches that the code has not entered.
func (r *record) left() []string {
	var found []string
	for _, path := range r.paths {
		if r.unopened[path] != nil && len(found) < toldBranches {
			found = append(found, path)
		}
	}
	return found
}
