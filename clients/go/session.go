package stepwell

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	reconnectFirst = 200 * time.Millisecond
	reconnectMost  = 30 * time.Second
	// A session that is still held is sought several times before it ends.
	triesASession = 4
)

var errStreamEnded = status.Error(codes.Unavailable, "the service ended the stream")

// session is a worker's presence: one stream after another, each resuming what the last one held.
//
// A stream that broke is followed by another after a while. One that the service asks to be moved stands, and works on,
// until the new one is welcome: in between nothing stops.
type session struct {
	client *Client
	hello  *pb.Hello
	outbox *outbox
	worker *Worker

	stream   *stream
	attempts int
	backoff  time.Duration

	mu         sync.Mutex
	isDraining bool
	isClosing  bool
	leaveTimer *time.Timer
	leave      chan struct{} // told when the stream is to be left
}

func newSession(worker *Worker, hello *pb.Hello, outbox *outbox) *session {
	return &session{
		client: worker.client, hello: hello, outbox: outbox, worker: worker, backoff: reconnectMost,
		leave: make(chan struct{}, 1),
	}
}

// run stays connected until close. It gives an error when the service refuses for good.
func (s *session) run(ctx context.Context) error {
	defer s.closeStream()
	moving := true
	for {
		err := s.next(ctx, moving)
		if err == nil {
			if moving, err = s.follow(ctx); err == nil && s.isOver() {
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			continue
		}
		if moving, err = s.after(ctx, err); err != nil || s.isOver() {
			return err
		}
	}
}

func (s *session) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isClosing
}

// drain asks for no more tasks.
func (s *session) drain() {
	s.mu.Lock()
	s.isDraining = true
	s.mu.Unlock()
	s.outbox.say(func() { s.outbox.drain = true })
}

// close leaves the stream for good.
func (s *session) close() {
	s.mu.Lock()
	s.isClosing = true
	s.mu.Unlock()
	poke(s.leave)
}

// rotate moves to another stream, at a random moment of the time given.
func (s *session) rotate(within time.Duration) { s.leaveIn(jitter(within)) }

func (s *session) leaveIn(delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaveTimer == nil {
		s.leaveTimer = time.AfterFunc(delay, func() { poke(s.leave) })
	}
}

// stay forgets that the stream was to be left.
func (s *session) stay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaveTimer != nil {
		s.leaveTimer.Stop()
		s.leaveTimer = nil
	}
	if !s.isClosing {
		select {
		case <-s.leave:
		default:
		}
	}
}

// next opens a stream if there is none, or if it is to be moved. The one before, if it still stands, works on until the
// new one is welcome.
func (s *session) next(ctx context.Context, moving bool) error {
	if s.stream != nil && !moving {
		return nil
	}
	hello := proto.Clone(s.hello).(*pb.Hello)
	if hello.GetSessionId() != "" {
		hello.Held = s.worker.held()
	}
	fresh, message, err := openStream(ctx, s.client, hello, s.outbox, s.worker.received)
	if err != nil {
		return err
	}
	former := s.stream
	s.stream, s.attempts = fresh, 0
	if former != nil {
		former.hush()
	}
	s.stay()
	s.takeWelcome(message.GetWelcome())
	s.worker.received(message)
	interval := message.GetWelcome().GetHeartbeatInterval().AsDuration()
	if interval <= 0 {
		interval = 10 * time.Second
	}
	fresh.start(interval)
	if former != nil {
		former.close()
	}
	return nil
}

func (s *session) takeWelcome(welcome *pb.Welcome) {
	if s.hello.GetSessionId() != "" && !welcome.GetResumed() {
		s.forget()
	} else if welcome.GetResumed() {
		still := map[string]int64{}
		for _, ref := range welcome.GetHeld() {
			still[ref.GetTaskId()] = ref.GetToken()
		}
		s.worker.resumed(still)
		s.outbox.resume()
	}
	s.hello.SessionId = welcome.GetSessionId()
	if ttl := welcome.GetSessionTtl().AsDuration(); ttl > 0 {
		s.backoff = ttl / triesASession
	}
	s.mu.Lock()
	isDraining := s.isDraining
	s.mu.Unlock()
	s.outbox.say(func() {
		if welcome.GetMaxItems() > 0 {
			s.outbox.maxItems = int(welcome.GetMaxItems())
		}
		s.outbox.drain = isDraining
	})
	slog.Info("stepwell: connected", "session", welcome.GetSessionId(), "resumed", welcome.GetResumed())
}

// forget drops what the session held: it is over.
func (s *session) forget() {
	s.hello.SessionId = ""
	s.backoff = reconnectMost
	s.outbox.clear()
	s.worker.sessionLost()
}

// follow follows the stream until it is to be left: for another one (true), or for good.
func (s *session) follow(ctx context.Context) (bool, error) {
	select {
	case <-s.leave:
		if s.isOver() {
			s.stream.sayGoodbye()
		}
		return true, nil
	case err := <-s.stream.done:
		if err == nil {
			// The reader knows why the stream ended; the writer only that it did.
			select {
			case err = <-s.stream.done:
			case <-time.After(time.Second):
			}
		}
		if err == nil {
			err = fromRPC(errStreamEnded)
		}
		s.closeStream()
		return true, err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// after waits before another attempt: a stream has ended, or could not be opened. It gives the error when another attempt
// can't help, and whether a stream is to be opened.
func (s *session) after(ctx context.Context, err error) (bool, error) {
	var failed *Error
	if errors.As(err, &failed) {
		switch {
		case failed.Reason == "SESSION_EXPIRED" || failed.Reason == "SESSION_NOT_FOUND":
			if s.hello.GetSessionId() != "" {
				slog.Warn("stepwell: the session is over: what it held is dropped")
				s.closeStream()
				s.forget()
				return true, nil
			}
		case isFatal(failed):
			return false, err
		}
	}
	delay := jitter(min(s.backoff, reconnectFirst<<min(s.attempts, 16)))
	if failed != nil {
		delay += failed.RetryAfter
	}
	s.attempts++
	if s.isOver() {
		return false, nil
	}
	if s.stream != nil {
		slog.Info("stepwell: no other stream yet", "error", err, "next", delay)
		s.stay()
		s.leaveIn(delay)
		return false, nil
	}
	slog.Info("stepwell: the stream is gone", "error", err, "next", delay)
	select {
	case <-time.After(delay):
	case <-s.leave:
	case <-ctx.Done():
	}
	return true, nil
}

// isFatal tells whether no other attempt can help.
func isFatal(failed *Error) bool {
	switch failed.Code {
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
		return true
	case codes.InvalidArgument:
		// Details that an activity gave are no reason to leave its neighbours alone. They were taken, and are gone.
		for field := range failed.Fields {
			if strings.HasPrefix(field, "heartbeats[") {
				return false
			}
		}
		return true
	}
	return failed.Reason == "NAMESPACE_NOT_FOUND"
}

func (s *session) closeStream() {
	if s.stream != nil {
		s.stream.hush()
		s.stream.close()
		s.stream = nil
	}
}
