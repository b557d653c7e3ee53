package stepwell_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	stepwell "github.com/stepwell/stepwell/clients/go"
	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// refusal is a status with a reason, and with advice if there is any.
func refusal(code codes.Code, reason string, advice time.Duration) *status.Status {
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(&errdetails.ErrorInfo{Reason: reason, Domain: "stepwell"})}
	if advice > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(advice)}))
	}
	found, err := status.New(code, "made up").WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return found
}

// refusing answers some reports itself: as judge says, where it says something.
func (t *tap) refusing(judge func(report *pb.Report) *pb.ReportResult) {
	t.set(func() {
		t.up = func(s *tapped, message *pb.ConnectRequest) *pb.ConnectRequest {
			passed := message.Reports[:0]
			for _, report := range message.GetReports() {
				refused := judge(report)
				if refused == nil {
					passed = append(passed, report)
					continue
				}
				refused.Correlation, refused.Status = report.GetCorrelation(), pb.ReportResult_STATUS_REFUSED
				go s.say(&pb.ConnectResponse{Results: []*pb.ReportResult{refused}})
			}
			message.Reports = passed
			return message
		}
	})
}

// remedied is a refusal with what to do about it.
func remedied(remedy pb.ReportResult_Remedy, reason string, delay time.Duration) *pb.ReportResult {
	return &pb.ReportResult{
		Remedy: remedy, RepeatDelay: durationpb.New(delay), Error: refusal(codes.FailedPrecondition, reason, 0).Proto(),
	}
}

// registerOne knows a workflow of a step and an activity.
func registerOne(calls *atomic.Int32) func(w *stepwell.Worker) {
	return func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "say", say)
		stepwell.RegisterWorkflow(w, "one", func(w stepwell.Workflow, name string) (string, error) {
			name, err := stepwell.Step(w, "name", func(context.Context) (string, error) {
				calls.Add(1)
				return name, nil
			})
			if err != nil {
				return "", err
			}
			return stepwell.Activity[string](w, "say", name)
		})
	}
}

// TestReportsRefusedInPassingComeAgain refuses each report twice. What it is called matters as little as its code.
func TestReportsRefusedInPassingComeAgain(t *testing.T) {
	tap := newTap(t)
	const delay = 50 * time.Millisecond
	times := map[int64][]time.Time{}
	tap.refusing(func(report *pb.Report) *pb.ReportResult {
		id := report.GetCorrelation()
		if times[id] = append(times[id], time.Now()); len(times[id]) < 3 {
			return remedied(pb.ReportResult_REMEDY_REPEAT, "OF_ANOTHER_TIME", delay)
		}
		return nil
	})
	var calls atomic.Int32
	stop := work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerOne(&calls))
	if got := result[string](t, start(t, dial(t), "one", "Ada")); got != "Hello, Ada!" || calls.Load() != 1 {
		t.Fatal(got, calls.Load())
	}
	stop()
	for _, sent := range times {
		if len(sent) != 3 || sent[1].Sub(sent[0]) < delay || sent[2].Sub(sent[1]) < delay {
			t.Fatal(sent)
		}
	}
}

// TestARepeatIsSentOnceByTheNextStream: not again when its own time comes.
func TestARepeatIsSentOnceByTheNextStream(t *testing.T) {
	tap := newTap(t)
	isFirst := true
	tap.refusing(func(*pb.Report) *pb.ReportResult {
		if !isFirst {
			return nil
		}
		isFirst = false
		// Once what the refusal says is known too.
		time.AfterFunc(200*time.Millisecond, tap.streams[0].cut)
		return remedied(pb.ReportResult_REMEDY_REPEAT, "RUN_BUSY", time.Second)
	})
	var sent atomic.Int32
	stop := work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "say", say)
	})
	if err := startJob(t, "say", "Ada").Result(within(t), nil); err != nil {
		t.Fatal(err)
	}
	// A job of a second, for as long as the report would be put off.
	time.Sleep(time.Second)
	stop()
	for _, report := range tap.reports(func(*pb.Report) bool { return true }) {
		sent.Add(1)
		if report.GetCorrelation() != 1 {
			t.Fatal(report)
		}
	}
	if sent.Load() != 2 || len(tap.streams) != 2 {
		t.Fatal(sent.Load(), len(tap.streams))
	}
}

// TestWhatCanNeverBeRecordedFails: the task fails with the refusal, and not its worker.
func TestWhatCanNeverBeRecordedFails(t *testing.T) {
	tap := newTap(t)
	tap.refusing(func(report *pb.Report) *pb.ReportResult {
		if report.GetFail() != nil || report.GetProgress().GetFail() != nil {
			return nil
		}
		return remedied(pb.ReportResult_REMEDY_FAIL, "OF_ANOTHER_TIME", 0)
	})
	var calls atomic.Int32
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerOne(&calls))
	job := startJob(t, "say", "Ada")
	for _, err := range []error{start(t, dial(t), "one", "Ada").Result(within(t), nil), job.Result(within(t), nil)} {
		var failed *stepwell.RunError
		if !errors.As(err, &failed) || failed.Failure.GetType() != "OF_ANOTHER_TIME" || !failed.Failure.GetNonRetryable() ||
			!strings.Contains(failed.Failure.GetMessage(), "made up") {
			t.Fatal(err)
		}
	}
}

// TestADroppedTaskIsLeftAlone: what is another's is reported no more, also where the worker knows no such remedy.
func TestADroppedTaskIsLeftAlone(t *testing.T) {
	for _, remedy := range []pb.ReportResult_Remedy{pb.ReportResult_REMEDY_DROP, 99} {
		t.Run(remedy.String(), func(t *testing.T) {
			tap := newTap(t)
			var refused atomic.Int32
			tap.refusing(func(report *pb.Report) *pb.ReportResult {
				refused.Add(1)
				return remedied(remedy, "LEASE_LOST", 0)
			})
			var calls atomic.Int32
			stop := work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerOne(&calls))
			start(t, dial(t), "one", "Ada")
			soon(t, "the report is refused", func() bool { return refused.Load() == 1 })
			stop()
			if refused.Load() != 1 {
				t.Fatal(refused.Load())
			}
		})
	}
}

// TestTooLargeToBeSaid: what the service's limits refuse, or would never come through, costs its task and no other.
func TestTooLargeToBeSaid(t *testing.T) {
	client := dial(t)
	tap := newTap(t)
	large := func(megabytes int) string { return strings.Repeat("x", megabytes<<20) }
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "give", func(_ context.Context, megabytes int) (string, error) {
			return large(megabytes), nil
		})
		stepwell.RegisterActivity(w, "fail", func(_ context.Context, megabytes int) (string, error) {
			return "", &stepwell.ApplicationError{
				Message: large(megabytes), Type: "INVALID_FIELD", Details: large(megabytes), NonRetryable: true,
			}
		})
		stepwell.RegisterActivity(w, "beat", func(ctx context.Context, megabytes int) (string, error) {
			stepwell.Heartbeat(ctx, large(megabytes))
			return "", &stepwell.ApplicationError{Message: "beaten", Type: "INVALID_FIELD", NonRetryable: true}
		})
		stepwell.RegisterWorkflow(w, "step", func(w stepwell.Workflow, megabytes int) (string, error) {
			return stepwell.Step(w, "give", func(context.Context) (string, error) { return large(megabytes), nil })
		})
		stepwell.RegisterWorkflow(w, "asked", func(w stepwell.Workflow, _ any) (string, error) {
			stepwell.HandleQuery(w, "all", func(megabytes int) (string, error) { return large(megabytes), nil })
			return stepwell.WaitSignal[string](w, "go")
		})
	})
	asked := start(t, client, "asked", nil)
	for _, megabytes := range []int{3, 5} {
		if _, err := client.StartJob(within(t), "give", large(megabytes)); !errors.Is(err, stepwell.ErrInvalidField) {
			t.Fatal(megabytes, err)
		}
		var errs []error
		for _, activity := range []string{"give", "fail", "beat"} {
			job, err := client.StartJob(within(t), activity, megabytes, stepwell.WithJobQueue(queueOf(t)))
			if err != nil {
				t.Fatal(err)
			}
			errs = append(errs, job.Result(within(t), nil))
		}
		errs = append(errs, start(t, client, "step", megabytes).Result(within(t), nil))
		for _, err := range errs {
			var failed *stepwell.RunError
			if !errors.As(err, &failed) || !strings.Contains(failed.Error(), "INVALID_FIELD") {
				t.Fatal(megabytes, err)
			}
		}
		if err := asked.Query(within(t), "all", megabytes, nil); !errors.Is(err, stepwell.ErrQueryFailed) {
			t.Fatal(megabytes, err)
		}
	}
	if len(tap.streams) != 1 {
		t.Fatal("the stream did not last: there were", len(tap.streams))
	}
}

// TestWhatCanNotBeSaidFails: all of it together is too large, or it is no text; again it costs its task and no other.
func TestWhatCanNotBeSaidFails(t *testing.T) {
	tap := newTap(t)
	large := strings.Repeat("x", 2<<20-16)
	work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "large", func(w stepwell.Workflow, _ any) (string, error) {
			return stepwell.SideEffect(w, "one", func() string { return large })
		})
		stepwell.RegisterActivity(w, "odd", func(context.Context, any) (string, error) {
			return "", &stepwell.ApplicationError{Type: "\xff", Message: "no text: \xff"}
		})
	})
	for _, err := range []error{
		start(t, dial(t), "large", nil).Result(within(t), nil), startJob(t, "odd", nil).Result(within(t), nil),
	} {
		var failed *stepwell.RunError
		if !errors.As(err, &failed) || failed.Failure.GetType() != "INVALID_FIELD" {
			t.Fatal(err)
		}
	}
	if len(tap.streams) != 1 {
		t.Fatal("the stream did not last: there were", len(tap.streams))
	}
}
