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

const (
	// answerTime is what the last reports of a worker that leaves have to be answered.
	answerTime = 5 * time.Second
	// lastWords is how long it waits for the service to end its session.
	lastWords = 2 * time.Second
)

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
	client     *Client
	converter  Converter
	options    WorkerOptions
	workflows  map[string]func(Workflow, *pb.Payload) (*pb.Payload, error)
	activities map[string]func(context.Context, *pb.Payload) (*pb.Payload, error)
	begun      atomic.Bool
	isClosing  atomic.Bool   // whether to half-close once all is said
	leaving    chan struct{} // closed by Shutdown
	once       sync.Once
	connected  chan struct{}

	mu          sync.Mutex
	tasks       map[string]task    // by their ids: all that is held
	reported    map[int64]task     // by the correlation of their reports that are not answered yet
	correlation int64              // the last one that was given
	next        *pb.ConnectRequest // what is still to be said
	maxItems    int                // how many things may be in a field of a message
	filled      chan struct{}      // told when there is something to say
	idle        chan struct{}      // told when nothing is held
}

// NewWorker prepares a worker; Run connects it.
func NewWorker(client *Client, options WorkerOptions) *Worker {
	if len(options.TaskQueues) == 0 {
		options.TaskQueues = []string{"default"}
	}
	options.MaxActivities = max(0, orElse(options.MaxActivities, 100))
	options.MaxRuns = max(0, orElse(options.MaxRuns, 200))
	options.MaxResidentRuns = max(0, orElse(options.MaxResidentRuns, 1000))
	options.DrainTime = orElse(options.DrainTime, 30*time.Second)
	options.WorkerID = orElse(options.WorkerID, identity()+"/"+uuid7("")[28:])
	return &Worker{
		client: client, converter: client.options.converter, options: options,
		workflows:  map[string]func(Workflow, *pb.Payload) (*pb.Payload, error){},
		activities: map[string]func(context.Context, *pb.Payload) (*pb.Payload, error){},
		leaving:    make(chan struct{}), connected: make(chan struct{}),
		tasks: map[string]task{}, reported: map[int64]task{}, next: &pb.ConnectRequest{}, maxItems: 256,
		filled: make(chan struct{}, 1), idle: make(chan struct{}, 1),
	}
}

func orElse[T comparable](value, otherwise T) T {
	var none T
	if value == none {
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
	if w.workflows[workflow] != nil {
		panic("stepwell: there are two workflows " + workflow)
	}
	w.workflows[workflow] = converted(w.converter, function)
}

// RegisterActivity lets a worker perform activities and jobs of a type. To be called before Run; panics if it knows the
// type already.
func RegisterActivity[I, O any](w *Worker, activity string, function func(ctx context.Context, input I) (O, error)) {
	if w.activities[activity] != nil {
		panic("stepwell: there are two activities " + activity)
	}
	w.activities[activity] = converted(w.converter, function)
}

// Run works until Shutdown is called or the context ends, either of which lets it finish what is in work first. It
// connects again whenever the stream breaks, and gives an error when the service refuses the worker for good: a wrong
// key, an unknown namespace. A worker runs once.
func (w *Worker) Run(ctx context.Context) error {
	if w.begun.Swap(true) {
		return errors.New("stepwell: a worker runs once: make another one")
	}
	defer context.AfterFunc(ctx, w.Shutdown)()
	linked, cut := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- w.stayConnected(linked) }()
	defer w.dropAll()
	defer cut()
	select {
	case err := <-ended:
		return err
	case <-w.leaving:
	}
	w.say(func(next *pb.ConnectRequest) { next.Drain = true })
	for _, t := range w.held() {
		if x, ok := t.(*execution); ok {
			x.poke()
		}
	}
	w.untilIdle(ended, w.options.DrainTime)
	for _, t := range w.held() {
		w.report(t, released("the worker is leaving"))
		t.stop()
	}
	w.untilIdle(ended, answerTime)
	w.isClosing.Store(true)
	poke(w.filled)
	select {
	case err := <-ended:
		return err
	case <-time.After(lastWords):
		cut()
		return <-ended
	}
}

// untilIdle waits until nothing is held, for so long at most.
func (w *Worker) untilIdle(ended chan error, most time.Duration) {
	end := time.After(most)
	for len(w.held()) > 0 {
		select {
		case <-w.idle:
		case err := <-ended:
			ended <- err
			return
		case <-end:
			return
		}
	}
}

// Connected is closed once the service has first said welcome.
func (w *Worker) Connected() <-chan struct{} { return w.connected }

// Shutdown lets Run finish what is in work and return. Safe to repeat.
func (w *Worker) Shutdown() { w.once.Do(func() { close(w.leaving) }) }
