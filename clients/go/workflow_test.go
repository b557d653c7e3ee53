package stepwell_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	stepwell "github.com/stepwell/stepwell/clients/go"
	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
	"github.com/stepwell/stepwell/clients/go/stepwelltest"
)

func say(_ context.Context, name string) (string, error) { return "Hello, " + name + "!", nil }

func TestActivitiesInParallel(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "say", say)
		stepwell.RegisterWorkflow(w, "greet", func(w stepwell.Workflow, names []string) ([]string, error) {
			return stepwell.Map(w, names, func(w stepwell.Workflow, name string) (string, error) {
				return stepwell.Activity[string](w, "say", name)
			}, stepwell.AtMost(2))
		})
	})
	got := result[[]string](t, start(t, client, "greet", []string{"Ada", "Grace", "Mary"}))
	if strings.Join(got, " ") != "Hello, Ada! Hello, Grace! Hello, Mary!" {
		t.Fatal(got)
	}
}

func TestManyStartsAtOnce(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "double", func(w stepwell.Workflow, n int) (int, error) { return 2 * n, nil })
	})
	const many = 200
	sum := make(chan int, many)
	for n := range many {
		go func() {
			run, err := client.StartRun(within(t), "double", n, stepwell.WithTaskQueue(queueOf(t)))
			if err != nil {
				t.Error(err)
				sum <- 0
				return
			}
			var got int
			if err := run.Result(within(t), &got); err != nil {
				t.Error(err)
			}
			sum <- got
		}()
	}
	total := 0
	for range many {
		total += <-sum
	}
	if total != many*(many-1) {
		t.Fatal(total)
	}
}

func TestAStepIsCalledOnce(t *testing.T) {
	client := dial(t)
	var calls, turns atomic.Int32
	register := func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "once", func(w stepwell.Workflow, _ struct{}) (int32, error) {
			turns.Add(1)
			first, err := stepwell.Step(w, "count", func(context.Context) (int32, error) { return calls.Add(1), nil })
			if err != nil {
				return 0, err
			}
			if _, err := stepwell.WaitSignal[any](w, "go"); err != nil {
				return 0, err
			}
			return first, nil
		})
	}
	stop := work(t, client, stepwell.WorkerOptions{}, register)
	run := start(t, client, "once", nil)
	soon(t, "the run waits", func() bool { return waitsFor(t, run, "go") })
	stop()
	work(t, client, stepwell.WorkerOptions{}, register)
	if err := run.Signal(within(t), "go", nil); err != nil {
		t.Fatal(err)
	}
	if got := result[int32](t, run); got != 1 || calls.Load() != 1 || turns.Load() != 2 {
		t.Fatal(got, calls.Load(), turns.Load())
	}
}

func waitsFor(t *testing.T, run *stepwell.Run, _ string) bool {
	t.Helper()
	found, err := run.Describe(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return found.GetPhase().String() == "RUN_PHASE_SUSPENDED"
}

func TestSleepGoesByTheServicesClock(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "nap", func(w stepwell.Workflow, days int) (string, error) {
			return "rested", w.Sleep(time.Duration(days) * 24 * time.Hour)
		})
	})
	run := start(t, client, "nap", 3)
	soon(t, "the run sleeps", func() bool { return waitsFor(t, run, "sleep") })
	if err := stepwelltest.Advance(within(t), client, 72*time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := result[string](t, run); got != "rested" {
		t.Fatal(got)
	}
}

func TestAWaitIsBounded(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "patient", func(w stepwell.Workflow, _ any) (string, error) {
			_, err := stepwell.WaitSignal[string](w, "word", stepwell.WaitAtMost(time.Hour))
			if errors.Is(err, stepwell.ErrWaitTimeout) {
				return "nobody came", nil
			}
			return "somebody came", err
		})
	})
	run := start(t, client, "patient", nil)
	soon(t, "the run waits", func() bool { return waitsFor(t, run, "word") })
	if err := stepwelltest.Advance(within(t), client, 2*time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := result[string](t, run); got != "nobody came" {
		t.Fatal(got)
	}
}

func TestAWaitOfNoTimeTakesWhatIsThere(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "glance", func(w stepwell.Workflow, _ any) (string, error) {
			if _, err := stepwell.WaitSignal[string](w, "begin"); err != nil {
				return "", err
			}
			word, err := stepwell.WaitSignal[string](w, "word", stepwell.WaitAtMost(0))
			if err != nil {
				return "", err
			}
			if _, err = stepwell.WaitSignal[string](w, "word", stepwell.WaitAtMost(0)); errors.Is(err, stepwell.ErrWaitTimeout) {
				return word, nil
			}
			return "", err
		})
	})
	run := start(t, client, "glance", nil)
	for _, signal := range []string{"word", "begin"} {
		if err := run.Signal(within(t), signal, "there"); err != nil {
			t.Fatal(err)
		}
	}
	if got := result[string](t, run); got != "there" {
		t.Fatal(got)
	}
}

// TestMoreBranchesThanAMessageTells: the service takes 20,000 of them in one.
func TestMoreBranchesThanAMessageTells(t *testing.T) {
	client := dial(t)
	wide := func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "wide", func(w stepwell.Workflow, count int) (int, error) {
			facts, err := stepwell.Map(w, make([]struct{}, count), func(w stepwell.Workflow, _ struct{}) (int, error) {
				return stepwell.SideEffect(w, "fact", func() int { return 1 })
			})
			if err != nil {
				return 0, err
			}
			_, err = stepwell.WaitSignal[any](w, "go")
			return len(facts), err
		})
	}
	const count = 20_001
	stop := work(t, client, stepwell.WorkerOptions{}, wide)
	run := start(t, client, "wide", count)
	soon(t, "the run waits", func() bool {
		found, err := run.Describe(within(t))
		if err != nil || found.GetFailure() != nil {
			t.Fatal(found.GetFailure(), err)
		}
		return found.GetPhase() == pb.RunPhase_RUN_PHASE_SUSPENDED
	})
	stop()
	work(t, client, stepwell.WorkerOptions{}, wide)
	if err := run.Signal(within(t), "go", nil); err != nil {
		t.Fatal(err)
	}
	if got := result[int](t, run); got != count {
		t.Fatal(got)
	}
}

func TestChildrenAndTheirFailures(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "child", func(w stepwell.Workflow, name string) (string, error) {
			if name == "" {
				return "", &stepwell.ApplicationError{Type: "Nameless", Message: "it has no name"}
			}
			return name + "!", nil
		})
		stepwell.RegisterWorkflow(w, "parent", func(w stepwell.Workflow, name string) (string, error) {
			good, err := stepwell.Child[string](w, "child", name)
			if err != nil {
				return "", err
			}
			_, err = stepwell.Child[string](w, "child", "")
			var failed *stepwell.StepError
			if !errors.As(err, &failed) {
				return "", errors.New("the child did not fail")
			}
			return good + " " + failed.Failure.GetType(), nil
		})
	})
	if got := result[string](t, start(t, client, "parent", "Ada")); got != "Ada! Nameless" {
		t.Fatal(got)
	}
}

func TestFailuresAndPanics(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "fails", func(w stepwell.Workflow, how string) (string, error) {
			if how == "panic" {
				panic("no way")
			}
			return "", &stepwell.ApplicationError{Type: "Broken", Message: how, Details: map[string]int{"at": 7}}
		})
	})
	for how, kind := range map[string]string{"panic": "Panic", "as told": "Broken"} {
		err := start(t, client, "fails", how).Result(within(t), nil)
		var failed *stepwell.RunError
		if !errors.As(err, &failed) || failed.Ended != "FAILED" || failed.Failure.GetType() != kind {
			t.Fatalf("%s: %v", how, err)
		}
	}
}

// TestCodeThatEndsOddlyFails: with an error that is a nil pointer, or without returning at all. The worker stands.
func TestCodeThatEndsOddlyFails(t *testing.T) {
	client := dial(t)
	odd := func(how string) (string, error) {
		var none *stepwell.ApplicationError
		switch how {
		case "exit":
			runtime.Goexit()
		case "wrapped":
			return "", fmt.Errorf("around: %w", none)
		}
		return "", none
	}
	one := stepwell.Retried(stepwell.RetryPolicy{MaximumAttempts: 1})
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "odd", func(_ context.Context, how string) (string, error) { return odd(how) })
		stepwell.RegisterWorkflow(w, "itself", func(_ stepwell.Workflow, how string) (string, error) { return odd(how) })
		stepwell.RegisterWorkflow(w, "activity", func(w stepwell.Workflow, how string) (string, error) {
			return stepwell.Activity[string](w, "odd", how, one)
		})
		stepwell.RegisterWorkflow(w, "step", func(w stepwell.Workflow, how string) (string, error) {
			return stepwell.Step(w, "odd", func(context.Context) (string, error) { return odd(how) })
		})
		stepwell.RegisterWorkflow(w, "branch", func(w stepwell.Workflow, how string) (string, error) {
			return "", stepwell.Parallel(w, func(stepwell.Workflow) error { _, err := odd(how); return err })
		})
	})
	for _, where := range []string{"itself", "activity", "step", "branch"} {
		for _, how := range []string{"nil", "wrapped", "exit"} {
			var failed *stepwell.RunError
			err := start(t, client, where, how).Result(within(t), nil)
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), "Panic") {
				t.Errorf("%s, %s: %v", where, how, err)
			}
		}
	}
}

func TestCancellationIsHeardWhereTheCodeWaits(t *testing.T) {
	client := dial(t)
	register := func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "say", say)
		stepwell.RegisterWorkflow(w, "clean", func(w stepwell.Workflow, _ any) (string, error) {
			_, err := stepwell.WaitSignal[any](w, "never")
			if !errors.Is(err, stepwell.ErrRunCancelled) {
				return "", errors.New("it was not cancelled")
			}
			if _, failed := stepwell.Activity[string](w, "say", "bye"); failed != nil {
				return "", failed
			}
			if _, failed := stepwell.WaitSignal[any](w, "cleaned"); failed != nil {
				return "", failed
			}
			return "", err
		})
	}
	stop := work(t, client, stepwell.WorkerOptions{}, register)
	run := start(t, client, "clean", nil)
	soon(t, "the run waits", func() bool { return waitsFor(t, run, "never") })
	if _, err := run.Cancel(within(t), "enough"); err != nil {
		t.Fatal(err)
	}
	soon(t, "the clean-up is recorded", func() bool { return strings.Contains(steps(t, client, run), "say/COMPLETED") })
	// The one that goes on with it hears of it in the same place.
	stop()
	work(t, client, stepwell.WorkerOptions{}, register)
	if err := run.Signal(within(t), "cleaned", nil); err != nil {
		t.Fatal(err)
	}
	var ended *stepwell.RunError
	if err := run.Result(within(t), nil); !errors.As(err, &ended) || ended.Ended != "CANCELLED" {
		t.Fatal(err)
	}
	if got := steps(t, client, run); got != "never/CANCELLED __cancelled/COMPLETED say/COMPLETED cleaned/COMPLETED" {
		t.Fatal(got)
	}
}

// TestCancellationIsHeardInPlaceOfTheEndThatItBrought: what waits in its queue ends with the request, whether a worker has
// the run or not.
func TestCancellationIsHeardInPlaceOfTheEndThatItBrought(t *testing.T) {
	client := dial(t)
	register := func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "clean", func(w stepwell.Workflow, _ any) (string, error) {
			_, err := stepwell.Activity[any](w, "slow", nil, stepwell.OnQueue("nobody"))
			if !errors.Is(err, stepwell.ErrRunCancelled) {
				return "", fmt.Errorf("it was not cancelled: %w", err)
			}
			if _, failed := stepwell.WaitSignal[any](w, "cleaned"); failed != nil {
				return "", failed
			}
			return "", err
		})
	}
	for name, isAway := range map[string]bool{"held": false, "away": true} {
		t.Run(name, func(t *testing.T) {
			stop := work(t, client, stepwell.WorkerOptions{}, register)
			run := start(t, client, "clean", nil)
			soon(t, "the run waits", func() bool { return waitsFor(t, run, "slow") })
			if isAway {
				stop()
			}
			if _, err := run.Cancel(within(t), "enough"); err != nil {
				t.Fatal(err)
			}
			if isAway {
				stop = work(t, client, stepwell.WorkerOptions{}, register)
			}
			soon(t, "it is heard", func() bool { return strings.Contains(steps(t, client, run), "__cancelled/COMPLETED") })
			stop()
			work(t, client, stepwell.WorkerOptions{}, register)
			if err := run.Signal(within(t), "cleaned", nil); err != nil {
				t.Fatal(err)
			}
			var ended *stepwell.RunError
			if err := run.Result(within(t), nil); !errors.As(err, &ended) || ended.Ended != "CANCELLED" {
				t.Fatal(err)
			}
			if got := steps(t, client, run); got != "slow/CANCELLED __cancelled/COMPLETED cleaned/COMPLETED" {
				t.Fatal(got)
			}
		})
	}
}

func TestCancellationInBranches(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "branches", func(w stepwell.Workflow, _ any) (string, error) {
			wait := func(w stepwell.Workflow) error {
				_, err := stepwell.WaitSignal[any](w, "never")
				return err
			}
			kept := func(w stepwell.Workflow) error {
				return w.Shield(func(w stepwell.Workflow) error { return w.Sleep(time.Hour) })
			}
			return "", stepwell.Parallel(w, wait, wait, kept)
		})
	})
	run := start(t, client, "branches", nil)
	soon(t, "the run waits", func() bool { return waitsFor(t, run, "never") })
	if _, err := run.Cancel(within(t), ""); err != nil {
		t.Fatal(err)
	}
	soon(t, "both have heard", func() bool { return strings.Count(steps(t, client, run), "__cancelled") == 2 })
	if err := stepwelltest.Advance(within(t), client, 2*time.Hour); err != nil {
		t.Fatal(err)
	}
	var ended *stepwell.RunError
	if err := run.Result(within(t), nil); !errors.As(err, &ended) || ended.Ended != "CANCELLED" {
		t.Fatal(err)
	}
}

func TestQueriesAndPublishedValues(t *testing.T) {
	client := dial(t)
	stop := work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "asked", func(w stepwell.Workflow, _ any) (string, error) {
			count := 41
			stepwell.HandleQuery(w, "count", func(more int) (int, error) { return count + more, nil })
			if err := w.Publish("state", "waits"); err != nil {
				return "", err
			}
			_, err := stepwell.WaitSignal[any](w, "end")
			return "", err
		})
	})
	run := start(t, client, "asked", nil)
	var count int
	if err := run.Query(within(t), "count", 1, &count); err != nil || count != 42 {
		t.Fatal(count, err)
	}
	var failed *stepwell.Error
	err := run.Query(within(t), "other", nil, nil)
	if !errors.As(err, &failed) || !errors.Is(err, stepwell.ErrQueryFailed) || failed.Metadata["type"] != "UnknownQuery" {
		t.Fatal(err)
	}
	stop()
	var state string
	if err := run.Query(within(t), "state", nil, &state); err != nil || state != "waits" {
		t.Fatal(state, err)
	}
}

func TestContinueAsNewIsFollowed(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "countdown", func(w stepwell.Workflow, n int) (string, error) {
			if n > 0 {
				return "", w.ContinueAsNew(n - 1)
			}
			return "lift-off", nil
		})
	})
	if got := result[string](t, start(t, client, "countdown", 3)); got != "lift-off" {
		t.Fatal(got)
	}
}

func TestSideEffectsAndPatches(t *testing.T) {
	client := dial(t)
	var made atomic.Int32
	register := func(isNew bool) func(w *stepwell.Worker) {
		return func(w *stepwell.Worker) {
			stepwell.RegisterWorkflow(w, "patched", func(w stepwell.Workflow, _ any) (string, error) {
				value, err := stepwell.SideEffect(w, "made", func() int32 { return made.Add(1) })
				if err != nil {
					return "", err
				}
				if _, err := stepwell.WaitSignal[any](w, "go"); err != nil {
					return "", err
				}
				if isNew && w.Patched("greets") {
					return "new", nil
				}
				if value != 1 || made.Load() != 1 {
					return "made anew", nil
				}
				return "old", nil
			})
		}
	}
	stop := work(t, client, stepwell.WorkerOptions{}, register(false))
	run := start(t, client, "patched", nil)
	soon(t, "the run waits", func() bool { return waitsFor(t, run, "go") })
	stop()
	work(t, client, stepwell.WorkerOptions{}, register(true))
	if err := run.Signal(within(t), "go", nil); err != nil {
		t.Fatal(err)
	}
	// The place is beyond what is recorded, so the new code holds; the side effect is the recorded one.
	if got := result[string](t, run); got != "new" || made.Load() != 1 {
		t.Fatal(got, made.Load())
	}
}

func TestChangedCodePausesTheRun(t *testing.T) {
	client := dial(t)
	register := func(name string) func(w *stepwell.Worker) {
		return func(w *stepwell.Worker) {
			stepwell.RegisterWorkflow(w, "changed", func(w stepwell.Workflow, _ any) (string, error) {
				if _, err := stepwell.Step(w, name, func(context.Context) (int, error) { return 1, nil }); err != nil {
					return "", err
				}
				_, err := stepwell.WaitSignal[any](w, "go")
				return "", err
			})
		}
	}
	stop := work(t, client, stepwell.WorkerOptions{}, register("before"))
	run := start(t, client, "changed", nil)
	soon(t, "the run waits", func() bool { return waitsFor(t, run, "go") })
	stop()
	work(t, client, stepwell.WorkerOptions{}, register("after"))
	if err := run.Signal(within(t), "go", nil); err != nil {
		t.Fatal(err)
	}
	soon(t, "the run is paused", func() bool {
		found, err := run.Describe(within(t))
		return err == nil && strings.Contains(found.GetPause().GetReason(), "ORDER_CHANGED")
	})
}

// TestAKilledWorkerLosesNothing kills a worker process in mid-activity; another one goes on.
func TestAKilledWorkerLosesNothing(t *testing.T) {
	client := dial(t)
	ledger := filepath.Join(t.TempDir(), "ledger")
	begin := func() *exec.Cmd {
		process := exec.Command(os.Args[0])
		process.Env = append(os.Environ(), "STEPWELL_TEST_WORKER="+address, "STEPWELL_TEST_QUEUE="+queueOf(t), "STEPWELL_TEST_LEDGER="+ledger)
		if err := process.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = process.Process.Kill(); _ = process.Wait() })
		return process
	}
	first := begin()
	run := start(t, client, "killable", 5)
	soon(t, "the activity begins", func() bool { return strings.Contains(ledgerOf(ledger), "begin") })
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ledger+".go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	begin()
	if got := result[int](t, run); got != 11 {
		t.Fatal(got)
	}
	lines := ledgerOf(ledger)
	if strings.Count(lines, "begin") != 2 || strings.Count(lines, "end") != 1 || strings.Count(lines, "step") != 1 {
		t.Fatal(lines)
	}
}

func ledgerOf(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// killable is a worker in a process of its own.
func killable() {
	ledger := os.Getenv("STEPWELL_TEST_LEDGER")
	note := func(line string) {
		file, err := os.OpenFile(ledger, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			panic(err)
		}
		defer file.Close()
		_, _ = file.WriteString(line + "\n")
	}
	client, err := stepwell.Dial(os.Getenv("STEPWELL_TEST_WORKER"))
	if err != nil {
		panic(err)
	}
	worker := stepwell.NewWorker(client, stepwell.WorkerOptions{TaskQueues: []string{os.Getenv("STEPWELL_TEST_QUEUE")}})
	stepwell.RegisterActivity(worker, "double", func(ctx context.Context, n int) (int, error) {
		note("begin")
		for {
			if _, err := os.Stat(ledger + ".go"); err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			case <-time.After(5 * time.Millisecond):
			}
		}
		note("end")
		return 2 * n, nil
	})
	stepwell.RegisterWorkflow(worker, "killable", func(w stepwell.Workflow, n int) (int, error) {
		one, err := stepwell.Step(w, "one", func(context.Context) (int, error) {
			note("step")
			return 1, nil
		})
		if err != nil {
			return 0, err
		}
		twice, err := stepwell.Activity[int](w, "double", n)
		return one + twice, err
	})
	_ = worker.Run(context.Background())
}
