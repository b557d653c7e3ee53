package stepwell_test

import (
	"errors"
	"sync/atomic"
	"testing"

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
