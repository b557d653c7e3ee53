package stepwell

import (
	"context"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

const (
	attemptTimeout = 20 * time.Second
	backoffFirst   = 50 * time.Millisecond
	backoffMost    = 5 * time.Second
)

// invoke calls a method, and again what fails in passing, until its time is over. What it makes is safe to repeat: it
// names what it makes, says what shall be, or has a request id.
func invoke[Q, A any](
	ctx context.Context, client *Client, method func(context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
) (*A, error) {
	end := time.Now().Add(client.options.callTimeout)
	for attempt := 0; ; attempt++ {
		answer, err := once(ctx, client, method, request, min(attemptTimeout, time.Until(end)))
		if err == nil {
			return answer, nil
		}
		delay := backoff(attempt, err)
		if !isPassing(err) || time.Now().Add(delay).After(end) {
			return nil, err
		}
		if !sleep(ctx, delay) {
			return nil, context.Cause(ctx)
		}
	}
}

// once calls a method whose repeat may do something else.
func once[Q, A any](
	ctx context.Context, client *Client, method func(context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
	timeout time.Duration,
) (*A, error) {
	bounded, cancel := context.WithTimeout(client.outgoing(ctx), timeout)
	defer cancel()
	answer, err := method(bounded, request)
	if err == nil {
		return answer, nil
	}
	if client.ctx.Err() != nil {
		return nil, ErrClosed
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	failed := fromRPC(err)
	if errors.Is(failed, context.DeadlineExceeded) {
		failed = &Error{Code: codes.DeadlineExceeded, Message: "the attempt's time was over"}
	}
	return nil, failed
}

// outgoing gives the context of a call: with the key and the trace.
func (c *Client) outgoing(ctx context.Context) context.Context {
	pairs := traceOf(ctx)
	if c.options.apiKey != "" {
		pairs = append(pairs, "authorization", "Bearer "+c.options.apiKey)
	}
	if len(pairs) == 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
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

var latest struct {
	sync.Mutex
	stamp uint64
}

// uuid7 makes a UUIDv7, greater than every earlier one of this process.
func uuid7() string {
	stamp := uint64(time.Now().UnixNano()) * 4096 / 1_000_000
	latest.Lock()
	if stamp <= latest.stamp {
		stamp = latest.stamp + 1
	}
	latest.stamp = stamp
	latest.Unlock()
	var id [16]byte
	if _, err := crand.Read(id[8:]); err != nil {
		panic(err)
	}
	milliseconds, fraction := stamp>>12, stamp&0xFFF
	for place := range 6 {
		id[place] = byte(milliseconds >> (40 - 8*place))
	}
	id[6], id[7] = 0x70|byte(fraction>>8), byte(fraction)
	id[8] = 0x80 | id[8]&0x3F
	text := hex.EncodeToString(id[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}
