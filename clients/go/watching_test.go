package stepwell_test

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	stepwell "github.com/stepwell/stepwell/clients/go"
	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// watched makes a client behind a tap, whose watch is live: what it starts from now on is told to it. The counter is of
// its calls that wait for a run.
func watched(t *testing.T, tap *tap) (*stepwell.Client, *atomic.Int32) {
	t.Helper()
	waits := &atomic.Int32{}
	tap.set(func() {
		tap.refuse = func(method string) error {
			if strings.HasSuffix(method, "/WaitRun") {
				waits.Add(1)
			}
			return nil
		}
	})
	client := dialAt(t, tap.address)
	soon(t, "the stream is live", func() bool {
		before := waits.Load()
		result[int](t, start(t, client, "echo", 1))
		return waits.Load() == before
	})
	return client, waits
}

func echoing(w *stepwell.Worker) {
	stepwell.RegisterWorkflow(w, "echo", func(_ stepwell.Workflow, what int) (int, error) { return what, nil })
	stepwell.RegisterWorkflow(w, "waits", func(w stepwell.Workflow, _ any) (string, error) {
		return stepwell.WaitSignal[string](w, "go")
	})
	stepwell.RegisterWorkflow(w, "twice", func(w stepwell.Workflow, left int) (int, error) {
		if left == 0 {
			return 7, nil
		}
		return 0, w.ContinueAsNew(left - 1)
	})
}

// TestAClientHearsOfItsOwnRunsAlone: what others start is not told to it; if it waits for that, it asks.
func TestAClientHearsOfItsOwnRunsAlone(t *testing.T) {
	tap, other := newTap(t), dial(t)
	work(t, other, stepwell.WorkerOptions{}, echoing)
	client, waits := watched(t, tap)
	var mu sync.Mutex
	var heard []string
	tap.set(func() {
		tap.answered = func(method string, text []byte) {
			message := &pb.WatchRunsResponse{}
			if !strings.HasSuffix(method, "/WatchRuns") || proto.Unmarshal(text, message) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, end := range message.GetEnds() {
				heard = append(heard, end.GetRunId())
			}
		}
	})
	theirs := start(t, other, "echo", 2)
	result[int](t, theirs)
	before := waits.Load()
	mine := start(t, client, "echo", 1)
	result[int](t, mine)
	mu.Lock()
	told := slices.Clone(heard)
	mu.Unlock()
	if !slices.Equal(told, []string{mine.ID()}) || waits.Load() != before {
		t.Errorf("of %s, and of another's %s, it heard %v, and asked %d times", mine.ID(), theirs.ID(), told, waits.Load()-before)
	}
	if got := result[int](t, client.Run(theirs.ID())); got != 2 {
		t.Error("of another's run it got", got)
	}
	if got := result[int](t, start(t, client, "twice", 2)); got != 7 {
		t.Error("of a chain it got", got)
	}
}

// TestALostWatchIsNoLostEnd: where the stream can't go on from where it was, what is waited for is asked for.
func TestALostWatchIsNoLostEnd(t *testing.T) {
	tap, other := newTap(t), dial(t)
	work(t, other, stepwell.WorkerOptions{}, echoing)
	client, waits := watched(t, tap)
	run, before := start(t, client, "waits", nil), waits.Load()
	got := make(chan string, 1)
	go func() { got <- result[string](t, run) }()
	tap.set(func() {
		count := tap.refuse
		tap.refuse = func(method string) error {
			if strings.HasSuffix(method, "/WatchRuns") {
				return status.Error(codes.InvalidArgument, "the cursor is too old")
			}
			return count(method)
		}
		for _, cut := range tap.watches {
			cut()
		}
	})
	soon(t, "it asks", func() bool { return waits.Load() > before })
	if err := other.Run(run.ID()).Signal(within(t), "go", "well"); err != nil {
		t.Fatal(err)
	}
	if value := <-got; value != "well" {
		t.Error("it got", value)
	}
}
