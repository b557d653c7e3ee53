package stepwell_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	stepwell "github.com/stepwell/stepwell/clients/go"
	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

func TestManyJobsAtOnce(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "double", func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	})
	const many = 200
	got := make(chan int, many)
	for n := range many {
		go func() {
			job, err := client.StartJob(within(t), "double", n, stepwell.WithJobQueue(queueOf(t)))
			if err != nil {
				t.Error(err)
				got <- 0
				return
			}
			var twice int
			if err := job.Result(within(t), &twice); err != nil {
				t.Error(err)
			}
			got <- twice
		}()
	}
	total := 0
	for range many {
		total += <-got
	}
	if total != many*(many-1) {
		t.Fatal(total)
	}
}

func TestAJobsOptions(t *testing.T) {
	client := dial(t)
	infos := make(chan stepwell.ActivityInfo, 9)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "looks", func(ctx context.Context, _ any) (int, error) {
			infos <- stepwell.InfoOf(ctx)
			return 0, errors.New("it tries again")
		})
	})
	const id = "0aa20590-9eb5-4318-9043-fd663819fe30"
	job := startJob(t, "looks", nil,
		stepwell.WithUniqueKey("the "+queueOf(t)), stepwell.WithJobPriority(9),
		stepwell.WithJobRetry(stepwell.RetryPolicy{MaximumAttempts: 2, InitialInterval: time.Millisecond}),
		stepwell.WithJobTimeouts(stepwell.JobTimeouts{
			ScheduleToStart: 4 * time.Minute, ScheduleToClose: 3 * time.Minute, StartToClose: 2 * time.Minute,
			Heartbeat: time.Minute,
		}),
		stepwell.WithJobDelay(time.Millisecond), stepwell.WithJob(func(r *pb.StartJobRequest) { r.JobId = id }),
	)
	if job.ID() != id || !job.Started() || job.UniqueKey() != "the "+queueOf(t) {
		t.Fatal(job.ID(), job.Started(), job.UniqueKey())
	}
	var failed *stepwell.RunError
	if err := job.Result(within(t), nil); !errors.As(err, &failed) || failed.Ended != "FAILED" || len(infos) != 2 {
		t.Fatal(err, len(infos))
	}
	if info := <-infos; info.HeartbeatTimeout != time.Minute || info.Deadline.IsZero() || info.JobID != id {
		t.Fatal(info)
	}
	found, err := job.Describe(within(t))
	if err != nil || found.GetPriority() != 9 || found.GetScheduleToStartTimeout().AsDuration() != 4*time.Minute ||
		found.GetScheduleToCloseTimeout().AsDuration() != 3*time.Minute ||
		found.GetStartToCloseTimeout().AsDuration() != 2*time.Minute {
		t.Fatal(found, err)
	}
}

func TestAUniqueKeyIsOneJobs(t *testing.T) {
	client := dial(t)
	key := stepwell.WithUniqueKey("one of " + time.Now().String())
	first := startJob(t, "nobody", nil, key)
	if _, err := client.StartJob(within(t), "nobody", nil, key); !errors.Is(err, stepwell.ErrUniqueKeyInUse) {
		t.Fatal(err)
	}
	existing := stepwell.WithJob(func(r *pb.StartJobRequest) {
		r.ConflictPolicy = pb.JobConflictPolicy_JOB_CONFLICT_POLICY_USE_EXISTING
	})
	if same := startJob(t, "nobody", nil, key, existing); same.ID() != first.ID() || same.Started() {
		t.Fatal(same.ID(), same.Started())
	}
	if accepted, err := first.Cancel(within(t), "enough"); err != nil || !accepted {
		t.Fatal(accepted, err)
	}
	if accepted, err := first.Cancel(within(t), "enough"); err != nil || accepted {
		t.Fatal(accepted, err)
	}
	if _, err := client.Job("0bb20590-9eb5-4318-9043-fd663819fe30").Describe(within(t)); !errors.Is(err, stepwell.ErrJobNotFound) {
		t.Fatal(err)
	}
}

func TestAJobIsRetried(t *testing.T) {
	client := dial(t)
	var isMended atomic.Bool
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "mended", func(context.Context, any) (string, error) {
			if isMended.Load() {
				return "well", nil
			}
			return "", &stepwell.ApplicationError{Message: "broken", NonRetryable: true}
		})
	})
	job := startJob(t, "mended", nil)
	var failed *stepwell.RunError
	if err := job.Result(within(t), nil); !errors.As(err, &failed) {
		t.Fatal(err)
	}
	isMended.Store(true)
	if err := job.Retry(within(t)); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := job.Result(within(t), &got); err != nil || got != "well" {
		t.Fatal(got, err)
	}
	if err := job.Retry(within(t)); !errors.Is(err, &stepwell.Error{Reason: "JOB_NOT_FAILED"}) {
		t.Fatal(err)
	}
}

// TestAnEndBeforeARetryIsNotItsResult: the stream tells late how the job had ended before.
func TestAnEndBeforeARetryIsNotItsResult(t *testing.T) {
	tap, direct := newTap(t), dial(t)
	var isMended atomic.Bool
	waited, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	tap.set(func() {
		tap.answered = func(method string, text []byte) {
			message := &pb.WatchJobsResponse{}
			if !strings.HasSuffix(method, "/WatchJobs") || proto.Unmarshal(text, message) != nil {
				return
			}
			for _, end := range message.GetEnds() {
				if end.GetState() == pb.JobState_JOB_STATE_FAILED {
					<-waited
				}
			}
		}
		tap.refuse = func(method string) error {
			if strings.HasSuffix(method, "/WaitJob") && isMended.Load() {
				once.Do(func() { close(goOn) })
			}
			return nil
		}
	})
	work(t, direct, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "mended", func(_ context.Context, isFirst bool) (string, error) {
			if isFirst {
				return "first", nil
			}
			if !isMended.Load() {
				return "", &stepwell.ApplicationError{Message: "broken", NonRetryable: true}
			}
			<-goOn
			return "well", nil
		})
	})
	client := dialAt(t, tap.address)
	begin := func(isFirst bool) *stepwell.Job {
		job, err := client.StartJob(within(t), "mended", isFirst, stepwell.WithJobQueue(queueOf(t)))
		if err != nil {
			t.Fatal(err)
		}
		return job
	}
	if err := begin(true).Result(within(t), nil); err != nil { // the watch stands
		t.Fatal(err)
	}
	job := begin(false)
	soon(t, "it has failed", func() bool {
		found, err := direct.Job(job.ID()).Describe(within(t))
		return err == nil && found.GetState() == pb.JobState_JOB_STATE_FAILED
	})
	isMended.Store(true)
	if err := job.Retry(within(t)); err != nil {
		t.Fatal(err)
	}
	// It is waited for already.
	time.AfterFunc(100*time.Millisecond, func() { close(waited) })
	var got string
	if err := job.Result(within(t), &got); err != nil || got != "well" {
		t.Fatal(got, err)
	}
}

// TestARepeatedStartIsWaitedFor: what it names has ended before, and no stream tells of that any more.
func TestARepeatedStartIsWaitedFor(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "say", say)
		stepwell.RegisterWorkflow(w, "one", func(_ stepwell.Workflow, name string) (string, error) { return name, nil })
	})
	const jobID, runID = "0cc20590-9eb5-4318-9043-fd663819fe30", "0dd20590-9eb5-4318-9043-fd663819fe30"
	for range 2 {
		job, err := client.StartJob(within(t), "say", "Ada", stepwell.WithJobQueue(queueOf(t)),
			stepwell.WithJob(func(r *pb.StartJobRequest) { r.JobId, r.RequestId = jobID, "the job" }))
		if err != nil {
			t.Fatal(err)
		}
		if err := job.Result(within(t), nil); err != nil {
			t.Fatal(err)
		}
		result[string](t, start(t, client, "one", "Ada", stepwell.WithStart(func(r *pb.StartRunRequest) {
			r.RunId, r.RequestId = runID, "the run"
		})))
	}
}

// TestEndsAreWatched also looks at results that are too large to be told along.
func TestEndsAreWatched(t *testing.T) {
	client := dial(t)
	long := strings.Repeat("x", 100_000)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "long", func(context.Context, any) (string, error) { return long, nil })
		stepwell.RegisterWorkflow(w, "long", func(stepwell.Workflow, any) (string, error) { return long, nil })
	})
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	runs, jobs := make(chan *pb.WatchRunsResponse_End), make(chan *pb.WatchJobsResponse_End)
	ended := make(chan error, 2)
	go func() {
		for end, err := range client.WatchRuns(ctx) {
			if err != nil {
				ended <- err
				return
			}
			runs <- end
		}
	}()
	go func() {
		for end, err := range client.WatchJobs(ctx) {
			if err != nil {
				ended <- err
				return
			}
			jobs <- end
		}
	}()
	// Until the watches stand, ends go by.
	var sawRun, sawJob bool
	for !sawRun || !sawJob {
		run, job := start(t, client, "long", nil), startJob(t, "long", nil)
		var got string
		if err := job.Result(within(t), &got); err != nil || got != long {
			t.Fatal(len(got), err)
		}
		if got := result[string](t, run); got != long {
			t.Fatal(len(got))
		}
		for isQuiet := false; !isQuiet; {
			select {
			case end := <-runs:
				sawRun = sawRun || end.GetRunId() == run.ID() && end.GetResultOmitted()
			case end := <-jobs:
				sawJob = sawJob || end.GetJobId() == job.ID() && end.GetState() == pb.JobState_JOB_STATE_COMPLETED
			case <-time.After(200 * time.Millisecond):
				isQuiet = true
			}
		}
	}
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
}
