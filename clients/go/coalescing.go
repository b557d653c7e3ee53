package stepwell

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	batchItems = 128
	batchBytes = 1_000_000
	lanes      = 3
)

// coalescer sends what many goroutines ask for at once in few calls.
//
// Nobody waits for company: what gathers while calls are under way is the next call.
type coalescer[Q proto.Message, A any] struct {
	client *Client
	send   func(items []*item[Q, A])
	mu     sync.Mutex
	queue  []*item[Q, A]
	lanes  int
}

type item[Q proto.Message, A any] struct {
	request Q
	trace   trace.SpanContext
	answer  A
	err     error
	done    chan struct{}
}

// newCoalescer makes one of a batch's method, and of what that batch and its answer consist of.
func newCoalescer[Q proto.Message, A, B, C any, R interface{ GetError() *spb.Status }](
	client *Client, method func(context.Context, *B, ...grpc.CallOption) (*C, error),
	batch func(requests []Q) *B, results func(answer *C) []R, answer func(result R) A,
) *coalescer[Q, A] {
	send := func(items []*item[Q, A]) {
		requests := make([]Q, len(items))
		for place, it := range items {
			requests[place] = it.request
		}
		// One caller's end must not be another's: the call lives as long as the client, in the trace of its callers.
		ctx := trace.ContextWithSpanContext(client.ctx, items[0].trace)
		response, err := once(ctx, client, method, batch(requests), min(attemptTimeout, client.options.callTimeout))
		if err == nil && len(results(response)) != len(items) {
			err = errors.New("the service left an item without an answer")
		}
		for place, it := range items {
			if it.err = err; err == nil {
				result := results(response)[place]
				if it.answer = answer(result); result.GetError() != nil {
					it.err = fromStatus(result.GetError())
				}
			}
			close(it.done)
		}
	}
	return &coalescer[Q, A]{client: client, send: send}
}

// submit queues a request, and waits for its answer or for the end of the context.
func (c *coalescer[Q, A]) submit(ctx context.Context, request Q) (A, error) {
	return repeated(ctx, c.client, func(time.Duration) (answer A, err error) {
		it := &item[Q, A]{request: request, trace: trace.SpanContextFromContext(ctx), done: make(chan struct{})}
		c.put(it)
		select {
		case <-it.done:
			return it.answer, it.err
		case <-ctx.Done():
			return answer, context.Cause(ctx)
		}
	})
}

func (c *coalescer[Q, A]) put(it *item[Q, A]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, it)
	if c.lanes < lanes {
		c.lanes++
		go c.drain()
	}
}

func (c *coalescer[Q, A]) drain() {
	for items := c.take(); items != nil; items = c.take() {
		c.send(items)
	}
}

// take gives the next batch; a call has one trace, so that items of one trace go together.
func (c *coalescer[Q, A]) take() []*item[Q, A] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.lanes--
		return nil
	}
	count, size := 0, 0
	for _, it := range c.queue[:min(len(c.queue), batchItems)] {
		size += proto.Size(it.request)
		if count > 0 && (size > batchBytes || !it.trace.Equal(c.queue[0].trace)) {
			break
		}
		count++
	}
	taken := c.queue[:count:count]
	c.queue = c.queue[count:]
	return taken
}
