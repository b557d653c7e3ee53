package stepwell

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
)

const (
	attemptTimeout = 20 * time.Second
	backoffFirst   = 50 * time.Millisecond
	backoffMost    = 5 * time.Second
)

// repeated calls, and again what fails in passing, until its time is over.
func repeated[A any](
	ctx context.Context, client *Client, call func(timeout time.Duration) (A, error),
) (answer A, err error) {
	end := time.Now().Add(client.options.callTimeout)
	for attempt := 0; ; attempt++ {
		answer, err = call(min(attemptTimeout, time.Until(end)))
		delay := backoff(attempt, err)
		if !isPassing(err) || time.Now().Add(delay).After(end) {
			return answer, err
		}
		if !sleep(ctx, delay) {
			return answer, context.Cause(ctx)
		}
	}
}

// invoke calls a method, and again what fails in passing. What it makes is safe to repeat: it names what it makes, says
// what shall be, or has a request id.
func invoke[Q, A any](
	ctx context.Context, client *Client, method func(context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
) (*A, error) {
	return repeated(ctx, client, func(timeout time.Duration) (*A, error) {
		return once(ctx, client, method, request, timeout)
	})
}

// once calls a method whose repeat may do something else.
func once[Q, A any](
	ctx context.Context, client *Client, method func(context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
	timeout time.Duration,
) (*A, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := method(bounded, request)
	switch {
	case err == nil:
		return answer, nil
	case client.ctx.Err() != nil:
		return nil, ErrClosed
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, fromRPC(err)
}

// backoff gives the delay before the next attempt, counted from 0: full jitter, on top of the service's advice.
func backoff(attempt int, err error) time.Duration {
	delay := jitter(min(backoffMost, backoffFirst<<min(attempt, 16)))
	var failed *Error
	if errors.As(err, &failed) {
		delay += failed.RetryAfter
	}
	return delay
}

func jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}

// sleep tells whether the time passed before the context ended.
func sleep(ctx context.Context, delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// uuid7 makes a UUIDv7, with a given ending: those made later come later in an index.
func uuid7(ending string) string {
	var id [16]byte
	if _, err := crand.Read(id[6:]); err != nil {
		panic(err)
	}
	var stamp [8]byte
	binary.BigEndian.PutUint64(stamp[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], stamp[2:])
	id[6], id[8] = 0x70|id[6]&0x0F, 0x80|id[8]&0x3F
	text := fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	return text[:len(text)-len(ending)] + ending
}
