package stepwell_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	stepwell "github.com/stepwell/stepwell/clients/go"
	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// steps tells a run's steps as name/STATE, by ordinal.
func steps(t *testing.T, client *stepwell.Client, run *stepwell.Run) string {
	t.Helper()
	found, err := client.Runs.ListRunSteps(within(t), &pb.ListRunStepsRequest{RunId: run.ID()})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, step := range found.GetSteps() {
		told = append(told, step.GetName()+"/"+strings.TrimPrefix(step.GetState().String(), "STEP_STATE_"))
	}
	return strings.Join(told, " ")
}

func hasBeaten(t *testing.T, client *stepwell.Client, run *stepwell.Run) bool {
	t.Helper()
	found, err := client.Runs.ListRunSteps(within(t), &pb.ListRunStepsRequest{RunId: run.ID()})
	if err != nil {
		t.Fatal(err)
	}
	return len(found.GetSteps()) > 0 && found.GetSteps()[0].GetHeartbeatTime() != nil
}

func TestAJobIsTriedAgainWithItsDetails(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "resumes", func(ctx context.Context, _ any) (int, error) {
			var at int
			if found, err := stepwell.HeartbeatDetails(ctx, &at); err != nil || found {
				return at, err
			}
			stepwell.Heartbeat(ctx, 1)
			stepwell.Heartbeat(ctx, 7)
			return 0, &stepwell.ApplicationError{Message: "once more", RetryAfter: time.Millisecond}
		})
	})
	job, err := client.StartJob(within(t), "resumes", nil, stepwell.WithJobQueue(queueOf(t)))
	if err != nil {
		t.Fatal(err)
	}
	var at int
	if err := job.Result(within(t), &at); err != nil || at != 7 {
		t.Fatal(at, err)
	}
}

func TestAFinalFailureOfAJob(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "refuses", func(context.Context, any) (int, error) {
			return 0, &stepwell.ApplicationError{Type: "Never", Message: "no", NonRetryable: true}
		})
	})
	job, err := client.StartJob(within(t), "refuses", nil, stepwell.WithJobQueue(queueOf(t)))
	if err != nil {
		t.Fatal(err)
	}
	var failed *stepwell.RunError
	if err := job.Result(within(t), nil); !errors.As(err, &failed) || failed.Failure.GetType() != "Never" {
		t.Fatal(err)
	}
}

func TestACancelledJobHearsOfIt(t *testing.T) {
	client := dial(t)
	begun := make(chan stepwell.ActivityInfo, 1)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "waits", func(ctx context.Context, _ any) (int, error) {
			begun <- stepwell.InfoOf(ctx)
			<-ctx.Done()
			return 0, context.Cause(ctx)
		})
	})
	job, err := client.StartJob(within(t), "waits", nil, stepwell.WithJobQueue(queueOf(t)))
	if err != nil {
		t.Fatal(err)
	}
	if info := <-begun; info.JobID != job.ID() || info.Attempt != 1 {
		t.Fatal(info)
	}
	if _, err := job.Cancel(within(t), "enough"); err != nil {
		t.Fatal(err)
	}
	var ended *stepwell.RunError
	if err := job.Result(within(t), nil); !errors.As(err, &ended) || ended.Ended != "CANCELLED" {
		t.Fatal(err)
	}
}

// TestAStreamIsResumed cuts the stream in mid-activity: the worker comes back, and nothing is done twice.
func TestAStreamIsResumed(t *testing.T) {
	l := newLink(t)
	near, err := stepwell.Dial(l.address())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	client := dial(t)
	var begun atomic.Int32
	goOn := make(chan struct{})
	work(t, near, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "slow", func(ctx context.Context, n int) (int, error) {
			begun.Add(1)
			stepwell.Heartbeat(ctx, "begun")
			select {
			case <-goOn:
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
			return n + 1, nil
		})
		stepwell.RegisterWorkflow(w, "resumed", func(w stepwell.Workflow, n int) (int, error) {
			return stepwell.Activity[int](w, "slow", n)
		})
	})
	run := start(t, client, "resumed", 1)
	// A task of which the service has heard nothing yet would go to anybody.
	soon(t, "the activity is at work", func() bool { return hasBeaten(t, client, run) })
	for range 3 {
		l.cut()
	}
	close(goOn)
	if got := result[int](t, run); got != 2 || begun.Load() != 1 {
		t.Fatal(got, begun.Load())
	}
}

// TestDrainFinishesWhatIsInWork leaves while an activity is performed.
func TestDrainFinishesWhatIsInWork(t *testing.T) {
	client := dial(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	stop := work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "slow", func(ctx context.Context, n int) (int, error) {
			close(begun)
			<-goOn
			return n, ctx.Err()
		})
	})
	job, err := client.StartJob(within(t), "slow", 3, stepwell.WithJobQueue(queueOf(t)))
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	close(goOn)
	<-stopped
	found, err := job.Describe(within(t))
	if err != nil || found.GetState() != pb.JobState_JOB_STATE_COMPLETED || found.GetAttempt() != 1 {
		t.Fatal(found.GetState(), err)
	}
}

func TestRefusalsAreErrors(t *testing.T) {
	client := dial(t)
	id := "taken " + time.Now().String()
	if _, err := client.StartRun(within(t), "nobody", nil, stepwell.WithWorkflowID(id)); err != nil {
		t.Fatal(err)
	}
	_, err := client.StartRun(within(t), "nobody", nil, stepwell.WithWorkflowID(id))
	if !errors.Is(err, stepwell.ErrWorkflowIDInUse) {
		t.Fatal(err)
	}
	_, err = client.StartRun(within(t), "", nil)
	var refused *stepwell.Error
	if !errors.As(err, &refused) || !errors.Is(err, stepwell.ErrInvalidField) || len(refused.Fields) == 0 {
		t.Fatal(err)
	}
	if _, err := client.RunOf(within(t), "no such name"); !errors.Is(err, stepwell.ErrRunNotFound) {
		t.Fatal(err)
	}
}

// reversed is a codec that anybody can read, from behind.
type reversed struct{}

func (reversed) turn(payload *pb.Payload) *pb.Payload {
	text := []byte(payload.GetJson() + string(payload.GetData()))
	for left, right := 0, len(text)-1; left < right; left, right = left+1, right-1 {
		text[left], text[right] = text[right], text[left]
	}
	if payload.GetData() != nil {
		return &pb.Payload{Body: &pb.Payload_Json{Json: string(text)}}
	}
	return &pb.Payload{Body: &pb.Payload_Data{Data: text}, Metadata: map[string]string{"encoding": "reversed"}}
}

func (r reversed) Encode(payload *pb.Payload) (*pb.Payload, error) { return r.turn(payload), nil }
func (r reversed) Decode(payload *pb.Payload) (*pb.Payload, error) { return r.turn(payload), nil }

func TestACodecHidesPayloads(t *testing.T) {
	client := dial(t, stepwell.WithCodec(reversed{}))
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "say", say)
		stepwell.RegisterWorkflow(w, "hidden", func(w stepwell.Workflow, name string) (string, error) {
			return stepwell.Activity[string](w, "say", name)
		})
	})
	run := start(t, client, "hidden", "Ada")
	if got := result[string](t, run); got != "Hello, Ada!" {
		t.Fatal(got)
	}
	found, err := run.Describe(within(t))
	if err != nil || string(found.GetResult().GetData()) != `"!adA ,olleH"` {
		t.Fatal(found.GetResult(), err)
	}
}
