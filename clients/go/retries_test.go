package stepwell_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	stepwell "github.com/stepwell/stepwell/clients/go"
)

// TestACallThatAServerLeavesIsMadeAgain: a server that ends leaves what it had not taken in as CANCELLED.
func TestACallThatAServerLeavesIsMadeAgain(t *testing.T) {
	tap := newTap(t)
	client := dialAt(t, tap.address)
	var refused atomic.Int32
	tap.set(func() {
		tap.refuse = func(string) error {
			if refused.Add(1) > 2 {
				return nil
			}
			return status.Error(codes.Canceled, "CANCELLED")
		}
	})
	run := start(t, client, "nobody", nil)
	if refused.Load() != 3 {
		t.Fatal(refused.Load())
	}
	refused.Store(0)
	if _, err := run.Describe(within(t)); err != nil || refused.Load() != 3 {
		t.Fatal(refused.Load(), err)
	}
}

// TestACallOfAClosedClientEnds: what the caller cancels is not made again.
func TestACallOfAClosedClientEnds(t *testing.T) {
	client, err := stepwell.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	run := client.Run("01a20590-9eb5-7318-9043-fd663819fe30")
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"describe": func() error { _, err := run.Describe(within(t)); return err },
		"start":    func() error { _, err := client.StartRun(within(t), "nobody", nil); return err },
		"result":   func() error { return run.Result(within(t), nil) },
	} {
		if err := call(); !errors.Is(err, stepwell.ErrClosed) {
			t.Fatal(name, err)
		}
	}
}

// TestOneAttemptTakesNoLongerThanItsCall looks at the deadline that a start goes out with.
func TestOneAttemptTakesNoLongerThanItsCall(t *testing.T) {
	var left time.Duration
	look := func(
		ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption,
	) error {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		return status.Error(codes.NotFound, "looked")
	}
	client := dial(t, stepwell.WithCallTimeout(time.Second), stepwell.WithGRPC(grpc.WithUnaryInterceptor(look)))
	_, err := client.StartRun(within(t), "nobody", nil)
	if status := new(stepwell.Error); !errors.As(err, &status) || status.Code != codes.NotFound || left > time.Second {
		t.Fatal(left, err)
	}
}

// TestAResultNeedsAPointer: also one that is null.
func TestAResultNeedsAPointer(t *testing.T) {
	client := dial(t)
	work(t, client, stepwell.WorkerOptions{}, func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "same", func(_ stepwell.Workflow, value *string) (*string, error) { return value, nil })
	})
	run := start(t, client, "same", nil)
	for name, target := range map[string]any{"a value": "", "a nil pointer": (*string)(nil)} {
		if err := run.Result(within(t), target); err == nil {
			t.Fatal(name)
		}
	}
	held := "held"
	if err := run.Result(within(t), &held); err != nil || held != "" {
		t.Fatal(held, err)
	}
}
