package stepwell

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	welcomeTimeout = 10 * time.Second
	reconnectFirst = 200 * time.Millisecond
	reconnectMost  = 30 * time.Second
	// triesASession: one that is still held is sought several times before it ends.
	triesASession = 4
	// tick is how late what is timed may be.
	tick = 100 * time.Millisecond
)

// Variables, so that tests need not wait as long.
var (
	silenceBeforePing  = 20 * time.Second
	silenceBeforeDeath = 30 * time.Second
)

var errMoved = errors.New("the service asked to connect anew")

// stayConnected has one stream after another, each resuming what the last one held, until the worker has left. It gives an
// error when the service refuses for good.
func (w *Worker) stayConnected(ctx context.Context) error {
	hello := w.hello()
	most := reconnectMost
	for attempt := 0; ; attempt++ {
		welcome, err := w.follow(ctx, hello)
		if w.isClosing.Load() || ctx.Err() != nil {
			return nil
		}
		if welcome != nil {
			attempt, most = 0, welcome.GetSessionTtl().AsDuration()/triesASession
		}
		delay := jitter(min(most, reconnectFirst<<min(attempt, 16)))
		failed := &Error{}
		switch {
		case errors.Is(err, errMoved):
			delay = 0
		case errors.As(err, &failed) && failed.Reason == "SESSION_EXPIRED" && hello.SessionId != "":
			hello.SessionId, most, delay = "", reconnectMost, 0
			w.dropAll()
		case welcome == nil && isFatal(failed):
			return err
		}
		delay += failed.RetryAfter
		slog.Info("stepwell: the stream is gone", "error", err, "next", delay)
		sleep(ctx, delay)
	}
}

// isFatal tells whether a hello that was refused so helps at no other time either.
func isFatal(failed *Error) bool {
	switch failed.Code {
	case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented, codes.InvalidArgument:
		return true
	}
	return failed.Reason == "NAMESPACE_NOT_FOUND"
}

func (w *Worker) hello() *pb.Hello {
	hello := &pb.Hello{
		Namespace: w.client.options.namespace, WorkerId: w.options.WorkerID, TaskQueues: w.options.TaskQueues,
		BuildId: w.options.BuildID, CompatibleBuildIds: w.options.CompatibleBuildIDs,
		Identity: identity(), Sdk: "stepwell-go/" + version, Capacity: &pb.CapacityUpdate{},
		WorkflowTypes: slices.Collect(maps.Keys(w.workflows)), ActivityTypes: slices.Collect(maps.Keys(w.activities)),
	}
	if len(w.workflows) > 0 {
		hello.Capacity.Capacities = append(hello.Capacity.Capacities, &pb.Capacity{
			Kind: pb.TaskKind_TASK_KIND_RUN, MaxOutstanding: int32(w.options.MaxRuns),
			MaxResident: int32(w.options.MaxResidentRuns),
		})
	}
	if len(w.activities) > 0 {
		hello.Capacity.Capacities = append(hello.Capacity.Capacities, &pb.Capacity{
			Kind: pb.TaskKind_TASK_KIND_ACTIVITY, MaxOutstanding: int32(w.options.MaxActivities),
		})
	}
	return hello
}

// stream is one stream of a worker's session.
type stream struct {
	worker *Worker
	ctx    context.Context
	cut    context.CancelCauseFunc
	call   grpc.BidiStreamingClient[pb.ConnectRequest, pb.ConnectResponse]
	began  time.Time
	heard  atomic.Int64 // when something last came, in nanoseconds since it began
}

// follow has one stream, over a connection of its own, until it ends, and gives what it ended with. Gives the welcome as
// well, if there was one.
func (w *Worker) follow(ctx context.Context, hello *pb.Hello) (*pb.Welcome, error) {
	conn, err := w.client.connect(anyOne)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	s := &stream{worker: w, began: time.Now()}
	s.ctx, s.cut = context.WithCancelCause(ctx)
	defer s.cut(nil)
	hello.Held = nil
	for _, t := range w.held() {
		hello.Held = append(hello.Held, t.base().task.GetRef())
	}
	message, err := s.greet(conn, hello)
	if err != nil {
		return nil, s.ending(err)
	}
	welcome := message.GetWelcome()
	hello.SessionId = welcome.GetSessionId()
	w.welcomed(welcome)
	written := make(chan struct{})
	go func() {
		defer close(written)
		s.write()
	}()
	go s.watch(welcome.GetHeartbeatInterval().AsDuration())
	err = s.ending(s.read(message))
	// What were taken after the next one has begun would be lost.
	s.cut(nil)
	<-written
	return welcome, err
}

// ending gives what ended it: what it was cut for, or else what the service said.
func (s *stream) ending(err error) error {
	if cause := context.Cause(s.ctx); cause != nil {
		return cause
	}
	return fromRPC(err)
}

// greet says hello, and gives the message with the welcome.
func (s *stream) greet(conn *grpc.ClientConn, hello *pb.Hello) (message *pb.ConnectResponse, err error) {
	late := &Error{Code: codes.Unavailable, Message: "the service did not say welcome in time"}
	defer time.AfterFunc(welcomeTimeout, func() { s.cut(late) }).Stop()
	if s.call, err = pb.NewWorkerServiceClient(conn).Connect(s.ctx); err != nil {
		return nil, err
	}
	// What the sending fails with, the reading tells better.
	if err := s.call.Send(&pb.ConnectRequest{Hello: hello}); err != nil && err != io.EOF {
		return nil, err
	}
	if message, err = s.call.Recv(); err == nil && message.GetWelcome() == nil {
		err = late
	}
	return message, err
}

func (s *stream) read(message *pb.ConnectResponse) (err error) {
	for ; err == nil; message, err = s.call.Recv() {
		s.heard.Store(int64(time.Since(s.began)))
		s.worker.received(message)
		if rotate := message.GetRotate(); rotate != nil {
			time.AfterFunc(jitter(rotate.GetWithin().AsDuration()), func() { s.cut(errMoved) })
		}
	}
	return err
}

// write says what there is to say, as much at a time as has gathered.
func (s *stream) write() {
	for {
		// What was to be said before is in the message, or was in one.
		isClosing := s.worker.isClosing.Load()
		message := s.worker.take()
		switch {
		case proto.Size(message) > 0:
			if err := s.call.Send(message); err == io.EOF {
				// The reader knows why.
				return
			} else if err != nil {
				s.cut(fromRPC(err))
				return
			}
		case isClosing:
			_ = s.call.CloseSend()
			return
		default:
			select {
			case <-s.worker.filled:
			case <-s.ctx.Done():
				return
			}
		}
	}
}

// watch does what is timed: it shows life and asks for it, gives a silent stream up, and has said what was put off.
func (s *stream) watch(interval time.Duration) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	pinged := time.Now()
	for pings := int64(1); ; {
		var now time.Time
		select {
		case now = <-ticker.C:
		case <-s.ctx.Done():
			return
		}
		silence := now.Sub(s.began) - time.Duration(s.heard.Load())
		if silence > silenceBeforeDeath {
			s.cut(&Error{Code: codes.Unavailable, Message: "nothing was heard for " + silence.String()})
			return
		}
		pause := interval - 2*tick
		if silence > silenceBeforePing {
			pause = time.Second
		}
		if now.Sub(pinged) >= pause {
			s.worker.say(func(next *pb.ConnectRequest) { next.Ping = pings })
			pinged = now
			pings++
		}
		s.worker.sendPutOff(now)
	}
}
