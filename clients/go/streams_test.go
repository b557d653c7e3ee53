package stepwell_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	stepwell "github.com/stepwell/stepwell/clients/go"
	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// registerHeld knows an activity that holds until it is let go or told to stop, and a workflow that waits for it.
func registerHeld(begun chan<- stepwell.ActivityInfo, goOn <-chan struct{}) func(w *stepwell.Worker) {
	return func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "hold", func(ctx context.Context, n int) (int, error) {
			begun <- stepwell.InfoOf(ctx)
			stepwell.Heartbeat(ctx, "begun")
			select {
			case <-goOn:
				return n, nil
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		})
		stepwell.RegisterWorkflow(w, "holds", func(w stepwell.Workflow, n int) (int, error) {
			return stepwell.Activity[int](w, "hold", n)
		})
		stepwell.RegisterWorkflow(w, "waits", func(w stepwell.Workflow, _ any) (string, error) {
			return stepwell.WaitSignal[string](w, "go")
		})
	}
}

func startJob(t *testing.T, activity string, input any, options ...stepwell.JobOption) *stepwell.Job {
	t.Helper()
	job, err := dial(t).StartJob(within(t), activity, input, append(options, stepwell.WithJobQueue(queueOf(t)))...)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// reports gives what was reported so far of which holds, by its correlation.
func (t *tap) reports(holds func(report *pb.Report) bool) []*pb.Report {
	var found []*pb.Report
	for _, message := range t.heard() {
		for _, report := range message.GetReports() {
			if holds(report) {
				found = append(found, report)
			}
		}
	}
	return found
}

// TestADuplicateAssignmentChangesNothing says each assignment twice, and the first ones once more when later ones stand.
func TestADuplicateAssignmentChangesNothing(t *testing.T) {
	tap := newTap(t)
	var first *pb.ConnectResponse
	const number = 4711
	var later *pb.TaskRef
	stale := make(chan struct{})
	tap.set(func() {
		tap.up = func(s *tapped, message *pb.ConnectRequest) *pb.ConnectRequest {
			for _, ref := range message.GetAcks() {
				if proto.Equal(ref, later) {
					later = nil
					go func() {
						s.say(first)
						// Its answer shows that what came before was taken in.
						s.say(&pb.ConnectResponse{Ping: number})
					}()
				}
			}
			if message.GetPong() == number {
				close(stale)
				message.Pong = 0
			}
			return message
		}
		tap.down = func(s *tapped, message *pb.ConnectResponse) *pb.ConnectResponse {
			if len(message.GetAssigns()) == 0 {
				return message
			}
			if assign := message.GetAssigns()[0]; assign.GetJobId() != "" {
				if first == nil {
					first = &pb.ConnectResponse{Assigns: []*pb.Task{assign}}
				} else {
					tap.set(func() { later = assign.GetRef() })
				}
			}
			message.Assigns = append(message.Assigns, proto.Clone(message).(*pb.ConnectResponse).GetAssigns()...)
			return message
		}
	})
	begun, goOn := make(chan stepwell.ActivityInfo, 9), make(chan struct{})
	var calls atomic.Int32
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		registerHeld(begun, goOn)(w)
		stepwell.RegisterActivity(w, "again", func(ctx context.Context, _ any) (int, error) {
			calls.Add(1)
			attempt := stepwell.InfoOf(ctx).Attempt
			if attempt == 1 {
				return 0, &stepwell.ApplicationError{Message: "once more", RetryAfter: time.Millisecond}
			}
			<-stale
			return attempt, ctx.Err()
		})
	})
	run := start(t, dial(t), "holds", 7)
	<-begun
	close(goOn)
	if got := result[int](t, run); got != 7 || len(begun) != 0 {
		t.Fatal(got, len(begun))
	}
	var attempt int
	if err := startJob(t, "again", nil).Result(within(t), &attempt); err != nil || attempt != 2 || calls.Load() != 2 {
		t.Fatal(attempt, calls.Load(), err)
	}
}

// TestARunThatComesWhileLeavingIsGivenBack: it was on its way when the worker said that it drains. The worker is at
// something else, so that it has not left before.
func TestARunThatComesWhileLeavingIsGivenBack(t *testing.T) {
	tap := newTap(t)
	draining, held := make(chan struct{}), make(chan struct{})
	tap.set(func() {
		tap.up = func(_ *tapped, message *pb.ConnectRequest) *pb.ConnectRequest {
			if message.GetDrain() {
				close(draining)
			}
			return message
		}
		tap.down = func(_ *tapped, message *pb.ConnectResponse) *pb.ConnectResponse {
			for _, task := range message.GetAssigns() {
				if task.GetKind() == pb.TaskKind_TASK_KIND_RUN {
					close(held)
					<-draining
				}
			}
			return message
		}
	})
	begun, goOn := make(chan stepwell.ActivityInfo, 9), make(chan struct{})
	stop := work(t, dialAt(t, tap.address), stepwell.WorkerOptions{DrainTime: time.Hour}, func(w *stepwell.Worker) {
		registerHeld(begun, goOn)(w)
	})
	startJob(t, "hold", 1)
	<-begun
	start(t, dial(t), "waits", nil)
	<-held
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	soon(t, "the run is given back", func() bool {
		return len(tap.reports(func(report *pb.Report) bool { return report.GetRelease() != nil })) == 1
	})
	close(goOn)
	<-stopped
}

// TestADrainIsSaidBeforeTheEnd: who half-closes without it keeps a session for nothing.
func TestADrainIsSaidBeforeTheEnd(t *testing.T) {
	for range 20 {
		tap := newTap(t)
		stop := work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerHeld(nil, nil))
		stop()
		hasDrained := false
		for _, message := range tap.heard() {
			hasDrained = hasDrained || message.GetDrain()
		}
		if !hasDrained {
			t.Fatal("it was not said")
		}
		<-tap.streams[0].halfClosed
	}
}

// TestAdviceBeforeTheNextStream is heeded.
func TestAdviceBeforeTheNextStream(t *testing.T) {
	const advice = 500 * time.Millisecond
	tap := newTap(t)
	tries := make(chan time.Time, 9)
	tap.set(func() {
		tap.refuse = func(method string) error {
			if tries <- time.Now(); len(tries) > 1 {
				return nil
			}
			return refusal(codes.ResourceExhausted, "TOO_MANY_STREAMS", advice).Err()
		}
	})
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerHeld(nil, nil))
	if first, second := <-tries, <-tries; second.Sub(first) < advice {
		t.Fatal(second.Sub(first))
	}
}

// TestALostAttemptIsReported: it stops, and what it came to gives its place back.
func TestALostAttemptIsReported(t *testing.T) {
	tap := newTap(t)
	tap.set(func() {
		tap.down = func(_ *tapped, message *pb.ConnectResponse) *pb.ConnectResponse {
			for _, beat := range message.GetHeartbeats() {
				beat.Lost = true
			}
			return message
		}
	})
	begun := make(chan stepwell.ActivityInfo, 9)
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerHeld(begun, nil))
	job := startJob(t, "hold", 1)
	soon(t, "it is reported", func() bool {
		return len(tap.reports(func(report *pb.Report) bool { return report.GetCancelled() != nil })) == 1
	})
	var ended *stepwell.RunError
	if err := job.Result(within(t), nil); !errors.As(err, &ended) || ended.Ended != "CANCELLED" {
		t.Fatal(err)
	}
}

// TestAReportWithoutAnAnswerIsSentAgain drops an answer, and cuts the stream.
func TestAReportWithoutAnAnswerIsSentAgain(t *testing.T) {
	tap := newTap(t)
	var dropped atomic.Int32
	tap.set(func() {
		tap.down = func(s *tapped, message *pb.ConnectResponse) *pb.ConnectResponse {
			// Of the run's step, and of the activity.
			if len(message.GetResults()) > 0 && dropped.Load() < 2 {
				dropped.Add(1)
				s.cut()
				return nil
			}
			return message
		}
	})
	var calls atomic.Int32
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerOne(&calls))
	if got := result[string](t, start(t, dial(t), "one", "Ada")); got != "Hello, Ada!" || calls.Load() != 1 {
		t.Fatal(got, calls.Load())
	}
	tap.mu.Lock()
	defer tap.mu.Unlock()
	if len(tap.streams) != 3 {
		t.Fatal(len(tap.streams))
	}
	lost := tap.streams[0].said[len(tap.streams[0].said)-1].GetReports()[0]
	hello := tap.streams[1].said[0].GetHello()
	if len(hello.GetHeld()) == 0 || hello.GetSessionId() == "" || !proto.Equal(tap.streams[1].said[1].GetReports()[0], lost) {
		t.Fatal(tap.streams[1].said)
	}
}

// TestASessionThatIsOverIsFollowedByAnother: all that it held is dropped, and replayed.
func TestASessionThatIsOverIsFollowedByAnother(t *testing.T) {
	tap := newTap(t)
	var connects atomic.Int32
	tap.set(func() {
		tap.refuse = func(method string) error {
			if connects.Add(1) != 2 {
				return nil
			}
			return refusal(codes.FailedPrecondition, "SESSION_EXPIRED", 0).Err()
		}
	})
	begun, goOn := make(chan stepwell.ActivityInfo, 9), make(chan struct{})
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerHeld(begun, goOn))
	run := start(t, dial(t), "holds", 3)
	<-begun
	soon(t, "the activity is at work", func() bool { return hasBeaten(t, dial(t), run) })
	tap.streams[0].cut()
	// The service gives it out again once the session is over there too.
	if again := <-begun; again.Attempt != 2 {
		t.Fatal(again.Attempt)
	}
	close(goOn)
	if got := result[int](t, run); got != 3 || connects.Load() != 3 {
		t.Fatal(got, connects.Load())
	}
	if hello := tap.streams[1].said[0].GetHello(); hello.GetSessionId() != "" || len(hello.GetHeld()) != 0 {
		t.Fatal(hello)
	}
}

// TestASilentStreamIsGivenUp: nothing comes through any more, and nothing says so.
func TestASilentStreamIsGivenUp(t *testing.T) {
	stepwell.SetSilence(time.Second, 3*time.Second)
	t.Cleanup(func() { stepwell.SetSilence(20*time.Second, 30*time.Second) })
	tap := newTap(t)
	var isFrozen atomic.Bool
	tap.set(func() {
		tap.down = func(s *tapped, message *pb.ConnectResponse) *pb.ConnectResponse {
			if isFrozen.Load() && s == tap.streams[0] {
				return nil
			}
			return message
		}
	})
	begun, goOn := make(chan stepwell.ActivityInfo, 9), make(chan struct{})
	stop := work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerHeld(begun, goOn))
	run := start(t, dial(t), "holds", 3)
	<-begun
	soon(t, "the activity is at work", func() bool { return hasBeaten(t, dial(t), run) })
	isFrozen.Store(true)
	close(goOn)
	if got := result[int](t, run); got != 3 || len(begun) != 0 {
		t.Fatal(got, len(begun))
	}
	stop()
	pings := 0
	for _, message := range tap.streams[0].said {
		if message.GetPing() != 0 {
			pings++
		}
	}
	if len(tap.streams) < 2 || pings < 2 {
		t.Fatal(len(tap.streams), pings)
	}
}

// TestARotationLosesNothing: what is held goes along to another connection, also where the first one that is tried has
// no room.
func TestARotationLosesNothing(t *testing.T) {
	tap := newTap(t)
	var connects atomic.Int32
	tap.set(func() {
		tap.refuse = func(string) error {
			if connects.Add(1) == 2 {
				return status.Error(codes.Unavailable, "not here")
			}
			return nil
		}
	})
	begun, goOn := make(chan stepwell.ActivityInfo, 9), make(chan struct{})
	stop := work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerHeld(begun, goOn))
	waits := start(t, dial(t), "waits", nil)
	soon(t, "the run waits", func() bool { return waitsFor(t, waits, "go") })
	run := start(t, dial(t), "holds", 3)
	<-begun
	soon(t, "the activity is at work", func() bool { return hasBeaten(t, dial(t), run) })
	tap.streams[0].say(&pb.ConnectResponse{Rotate: &pb.Rotate{Within: durationpb.New(time.Millisecond)}})
	soon(t, "it has moved", func() bool { tap.mu.Lock(); defer tap.mu.Unlock(); return len(tap.streams) == 2 })
	close(goOn)
	if got := result[int](t, run); got != 3 || len(begun) != 0 {
		t.Fatal(got, len(begun))
	}
	if err := waits.Signal(within(t), "go", "now"); err != nil {
		t.Fatal(err)
	}
	if got := result[string](t, waits); got != "now" {
		t.Fatal(got)
	}
	stop()
	hello := tap.streams[1].said[0].GetHello()
	if len(hello.GetHeld()) != 3 || tap.streams[0].peer == tap.streams[1].peer {
		t.Fatal(hello.GetHeld(), tap.streams[0].peer, tap.streams[1].peer)
	}
}

// TestAnAdvanceIsAlwaysAnswered: without a Progress the run would go on taking a place.
func TestAnAdvanceIsAlwaysAnswered(t *testing.T) {
	tap := newTap(t)
	assigned := make(chan *pb.TaskRef, 1)
	tap.set(func() {
		tap.down = func(_ *tapped, message *pb.ConnectResponse) *pb.ConnectResponse {
			for _, task := range message.GetAssigns() {
				assigned <- task.GetRef()
			}
			return message
		}
	})
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerHeld(nil, nil))
	run := start(t, dial(t), "waits", nil)
	soon(t, "the run waits", func() bool { return waitsFor(t, run, "go") })
	waiting := func() int {
		return len(tap.reports(func(report *pb.Report) bool { return report.GetProgress().GetWaiting() }))
	}
	if waiting() != 1 {
		t.Fatal(waiting())
	}
	ref := <-assigned
	other := &pb.TaskRef{TaskId: ref.GetTaskId(), Token: ref.GetToken() - 1}
	// What is about an older grant, or about nothing, means nothing.
	tap.streams[0].say(&pb.ConnectResponse{
		Cancels: []*pb.CancelTask{{Ref: other}}, Revokes: []*pb.RevokeTask{{Ref: other}},
		Advances: []*pb.Advance{{Ref: other, CancelRequested: true}, {Ref: &pb.TaskRef{TaskId: "none", Token: 1}}},
	})
	tap.streams[0].say(&pb.ConnectResponse{Advances: []*pb.Advance{{Ref: ref}}})
	soon(t, "it is answered", func() bool { return waiting() == 2 })
	if err := run.Signal(within(t), "go", "on"); err != nil {
		t.Fatal(err)
	}
	if got := result[string](t, run); got != "on" {
		t.Fatal(got)
	}
}

// TestStepsArePaged: what a task has no room for is read, and what ends meanwhile is kept until then.
func TestStepsArePaged(t *testing.T) {
	const many = 60
	client := dial(t)
	var calls, pages atomic.Int32
	register := func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "paged", func(w stepwell.Workflow, _ any) (int, error) {
			size := 0
			for range many {
				text, err := stepwell.Step(w, "large", func(context.Context) (string, error) {
					calls.Add(1)
					return strings.Repeat("x", 50_000), nil
				})
				if err != nil {
					return 0, err
				}
				size += len(text)
			}
			_, err := stepwell.Map(w, []string{"one", "two"}, func(w stepwell.Workflow, name string) (any, error) {
				return stepwell.WaitSignal[any](w, name)
			})
			return size, err
		})
	}
	stop := work(t, client, stepwell.WorkerOptions{}, register)
	run := start(t, client, "paged", nil)
	soon(t, "the run waits", func() bool { return waitsFor(t, run, "go") })
	stop()
	tap := newTap(t)
	advanced := make(chan struct{}, 9)
	tap.set(func() {
		tap.answered = func(_ string, text []byte) {
			pages.Add(1)
			page := &pb.ListTaskStepsResponse{}
			if err := proto.Unmarshal(text, page); err != nil || page.GetMoreSteps() {
				return
			}
			// One of the waits ends while the page that has it as open is on its way.
			if err := run.Signal(context.Background(), "two", nil); err != nil {
				panic(err)
			}
			<-advanced
		}
		tap.down = func(_ *tapped, message *pb.ConnectResponse) *pb.ConnectResponse {
			for range message.GetAdvances() {
				advanced <- struct{}{}
			}
			return message
		}
	})
	if err := run.Signal(within(t), "one", nil); err != nil {
		t.Fatal(err)
	}
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, register)
	if got := result[int](t, run); got != many*50_000 || calls.Load() != many || pages.Load() < 2 {
		t.Fatal(got, calls.Load(), pages.Load())
	}
}
