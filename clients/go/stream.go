package stepwell

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	welcomeTimeout = 10 * time.Second
	watchTick      = time.Second
	lastWords      = 2 * time.Second
)

// Variables, so that tests need not wait as long.
var (
	silenceBeforePing  = 20 * time.Second
	silenceBeforeDeath = 30 * time.Second
)

// stream is one stream of a worker's session, over a connection of its own: greeted, then read, written and watched.
type stream struct {
	conn     *grpc.ClientConn
	call     grpc.BidiStreamingClient[pb.ConnectRequest, pb.ConnectResponse]
	cancel   context.CancelFunc
	outbox   *outbox
	received func(*pb.ConnectResponse)
	heard    moment
	said     moment
	hushed   chan struct{}
	hushOnce sync.Once
	done     chan error // what ended it, from the reader, the writer or the watch
	readEnd  chan struct{}
	writeEnd chan struct{}
	gate     sync.Mutex // held while a message is taken in, or out of the outbox
	muted    bool
}

// moment is when something last happened, whatever becomes of the wall's clock.
type moment struct{ since atomic.Int64 }

var began = time.Now()

func (m *moment) touch()             { m.since.Store(int64(time.Since(began))) }
func (m *moment) ago() time.Duration { return time.Since(began) - time.Duration(m.since.Load()) }

// openStream connects, says hello and gives the message with the welcome.
func openStream(
	ctx context.Context, client *Client, hello *pb.Hello, outbox *outbox, received func(*pb.ConnectResponse),
) (*stream, *pb.ConnectResponse, error) {
	conn, err := client.connect(anyOne)
	if err != nil {
		return nil, nil, err
	}
	calling, cancel := context.WithCancel(client.outgoing(ctx))
	s := &stream{
		conn: conn, cancel: cancel, outbox: outbox, received: received, hushed: make(chan struct{}),
		done: make(chan error, 3), readEnd: make(chan struct{}), writeEnd: make(chan struct{}),
	}
	timer := time.AfterFunc(welcomeTimeout, cancel)
	message, err := s.greet(calling, hello)
	if !timer.Stop() && err != nil && ctx.Err() == nil {
		err = &Error{Code: codes.Unavailable, Message: "the service did not say welcome in time"}
	}
	if err != nil {
		s.close()
		return nil, nil, err
	}
	s.heard.touch()
	s.said.touch()
	return s, message, nil
}

func (s *stream) greet(ctx context.Context, hello *pb.Hello) (*pb.ConnectResponse, error) {
	call, err := pb.NewWorkerServiceClient(s.conn).Connect(ctx)
	if err != nil {
		return nil, fromRPC(err)
	}
	s.call = call
	// What the sending fails with, the reading tells better.
	if err := call.Send(&pb.ConnectRequest{Hello: hello}); err != nil && !errors.Is(err, io.EOF) {
		return nil, fromRPC(err)
	}
	message, err := call.Recv()
	if err != nil {
		return nil, fromRPC(orEnd(err))
	}
	if message.GetWelcome() == nil {
		return nil, &Error{Code: codes.Unavailable, Message: "the service did not say welcome"}
	}
	return message, nil
}

// start begins to read, to write and to watch.
func (s *stream) start(interval time.Duration) {
	go func() {
		defer close(s.readEnd)
		s.done <- s.read()
	}()
	go func() {
		defer close(s.writeEnd)
		s.done <- s.write()
	}()
	go s.watch(interval)
}

func (s *stream) read() error {
	for {
		message, err := s.call.Recv()
		if err != nil {
			return fromRPC(orEnd(err))
		}
		s.heard.touch()
		if message.GetPing() != 0 {
			s.outbox.say(func() { s.outbox.pong = message.GetPing() })
		}
		s.gate.Lock()
		if !s.muted {
			s.received(message)
		}
		s.gate.Unlock()
	}
}

func (s *stream) write() error {
	for {
		select {
		case <-s.outbox.filled:
		case <-s.hushed:
			// Somebody else is to write it.
			return nil
		case <-s.call.Context().Done():
			return nil
		}
		message, isMuted := s.take()
		if isMuted {
			return nil
		}
		if message == nil {
			continue
		}
		s.said.touch()
		if err := s.call.Send(message); err != nil {
			// The reader knows why.
			return nil
		}
	}
}

// take takes the next message, unless somebody else is to say it: what were taken after the next stream has begun would be
// lost with this one, and never be said again.
func (s *stream) take() (message *pb.ConnectRequest, isMuted bool) {
	s.gate.Lock()
	defer s.gate.Unlock()
	if s.muted {
		poke(s.outbox.filled)
		return nil, true
	}
	return s.outbox.take(), false
}

// watch shows life, asks for it, and gives a silent stream up.
func (s *stream) watch(interval time.Duration) {
	tick := min(watchTick, interval/4)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	before := time.Now()
	for pings := int64(1); ; {
		select {
		case <-ticker.C:
		case <-s.hushed:
			return
		case <-s.call.Context().Done():
			return
		}
		now := time.Now()
		if now.Sub(before) > tick+5*time.Second {
			// This process itself was held up: what came meanwhile is yet to be read.
			s.heard.touch()
		}
		before = now
		silence := s.heard.ago()
		if silence > silenceBeforeDeath {
			s.done <- &Error{Code: codes.Unavailable, Message: "nothing was heard for " + silence.String()}
			return
		}
		if silence > silenceBeforePing || s.said.ago() >= interval-tick {
			s.outbox.say(func() { s.outbox.ping = pings })
			pings++
		}
	}
}

// hush says and hears nothing more; what it has not said stays for the stream that follows.
func (s *stream) hush() {
	s.hushOnce.Do(func() { close(s.hushed) })
	s.gate.Lock()
	s.muted = true
	s.gate.Unlock()
}

// sayGoodbye says what is left to say, that the worker drains above all, and half-closes: so the service may end the
// session at once.
func (s *stream) sayGoodbye() {
	s.hushOnce.Do(func() { close(s.hushed) })
	<-s.writeEnd
	for message := s.outbox.take(); message != nil; message = s.outbox.take() {
		if s.call.Send(message) != nil {
			return
		}
	}
	if s.call.CloseSend() != nil {
		return
	}
	select {
	case <-s.readEnd:
	case <-time.After(lastWords):
	}
}

func (s *stream) close() {
	s.cancel()
	s.conn.Close()
}

// orEnd spells the quiet end of a stream as what it means to a worker.
func orEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return errStreamEnded
	}
	return err
}
