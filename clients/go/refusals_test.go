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

// refusing answers some reports itself: with a refusal where judge gives one.
func (t *tap) refusing(judge func(report *pb.Report) *status.Status) {
	t.set(func() {
		t.up = func(s *tapped, message *pb.ConnectRequest) *pb.ConnectRequest {
			passed := message.Reports[:0]
			for _, report := range message.GetReports() {
				refused := judge(report)
				if refused == nil {
					passed = append(passed, report)
					continue
				}
				go s.say(&pb.ConnectResponse{Results: []*pb.ReportResult{{
					Correlation: report.GetCorrelation(), Status: pb.ReportResult_STATUS_REFUSED, Error: refused.Proto(),
				}}})
			}
			message.Reports = passed
			return message
		}
	})
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

// TestReportsRefusedInPassingComeAgain refuses each report once, for each reason that passes.
func TestReportsRefusedInPassingComeAgain(t *testing.T) {
	for reason, code := range map[string]codes.Code{
		"RUN_BUSY": codes.Aborted, "JOB_BUSY": codes.Aborted, "QUEUE_FULL": codes.ResourceExhausted,
		"DATABASE_UNAVAILABLE": codes.Unavailable, "DATABASE_CONTENDED": codes.Unavailable,
		"OUTCOME_UNKNOWN": codes.Unavailable, "INTERNAL_ERROR": codes.Internal,
	} {
		t.Run(reason, func(t *testing.T) {
			tap := newTap(t)
			seen := map[int64]bool{}
			isAgain := false
			tap.refusing(func(*pb.Report) *status.Status {
				if isAgain = !isAgain; isAgain {
					return refusal(code, reason, 5*time.Millisecond)
				}
				return nil
			})
			var calls atomic.Int32
			work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerOne(&calls))
			if got := result[string](t, start(t, dial(t), "one", "Ada")); got != "Hello, Ada!" || calls.Load() != 1 {
				t.Fatal(got, calls.Load())
			}
			for _, message := range tap.heard() {
				for _, report := range message.GetReports() {
					if seen[report.GetCorrelation()] {
						t.Fatal("a correlation was used twice")
					}
					seen[report.GetCorrelation()] = true
				}
			}
		})
	}
}

// TestRefusalsThatStayAreGivenBack: nothing stays with a worker that can't get rid of it.
func TestRefusalsThatStayAreGivenBack(t *testing.T) {
	for reason, code := range map[string]codes.Code{
		"INTERNAL_ERROR": codes.Internal, "RESULT_NOT_RECORDED": codes.FailedPrecondition,
		"OF_ANOTHER_TIME": codes.FailedPrecondition, "INVALID_FIELD": codes.InvalidArgument,
	} {
		t.Run(reason, func(t *testing.T) {
			tap := newTap(t)
			released := map[string]bool{}
			tap.refusing(func(report *pb.Report) *status.Status {
				id := report.GetRef().GetTaskId()
				if report.GetRelease() != nil {
					released[id] = true
				}
				if released[id] {
					return nil
				}
				if code == codes.Internal {
					return refusal(code, reason, time.Millisecond)
				}
				return refusal(code, reason, 0)
			})
			var calls atomic.Int32
			work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerOne(&calls))
			if got := result[string](t, start(t, dial(t), "one", "Ada")); got != "Hello, Ada!" {
				t.Fatal(got)
			}
			if len(released) != 2 {
				t.Fatal(released)
			}
		})
	}
}

// TestWhatCanNeverBeRecordedFails: the task fails with the refusal, and not its worker.
func TestWhatCanNeverBeRecordedFails(t *testing.T) {
	for reason, code := range map[string]codes.Code{
		"INVALID_FIELD": codes.InvalidArgument, "LIMIT_EXCEEDED": codes.ResourceExhausted,
	} {
		t.Run(reason, func(t *testing.T) {
			tap := newTap(t)
			tap.refusing(func(report *pb.Report) *status.Status {
				if report.GetFail() != nil || report.GetProgress().GetFail() != nil {
					return nil
				}
				return refusal(code, reason, 0)
			})
			var calls atomic.Int32
			work(t, dialAt(t, tap.address), stepwell.WorkerOptions{}, registerOne(&calls))
			job, err := dial(t).StartJob(within(t), "say", "Ada", stepwell.WithJobQueue(queueOf(t)))
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{start(t, dial(t), "one", "Ada").Result(within(t), nil), job.Result(within(t), nil)} {
				var failed *stepwell.RunError
				if !errors.As(err, &failed) || failed.Failure.GetType() != reason || !failed.Failure.GetNonRetryable() {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestADroppedTaskIsLeftAlone: what is another's is reported no more.
func TestADroppedTaskIsLeftAlone(t *testing.T) {
	for _, reason := range []string{"LEASE_LOST", "RUN_NOT_FOUND", "RUN_TERMINAL", "JOB_NOT_FOUND"} {
		t.Run(reason, func(t *testing.T) {
			tap := newTap(t)
			var refused atomic.Int32
			tap.refusing(func(report *pb.Report) *status.Status {
				refused.Add(1)
				return refusal(codes.FailedPrecondition, reason, 0)
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
			return "", &stepwell.ApplicationError{Message: "no", Details: large(megabytes), NonRetryable: true}
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
			if !errors.As(err, &failed) || failed.Failure.GetType() != "INVALID_FIELD" {
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
