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
	tick        = 100 * time.Millisecond
	messageMost = 1_000_000
)

// Variables, so that tests need not wait as long.
var (
	silenceBeforePing  = 20 * time.Second
	silenceBeforeDeath = 30 * time.Second
)

var errMoved = errors.New("the service asked to connect anew")

type workerStream = grpc.BidiStreamingClient[pb.ConnectRequest, pb.ConnectResponse]

// stayConnected has one stream after another, each resuming what the last one held, until the worker has left. It gives an
// error when the service refuses for good.
func (w *Worker) stayConnected(ctx context.Context) error {
	hello := w.hello()
	most := reconnectMost
	for attempt := 0; ; attempt++ {
		welcome, err := w.stream(ctx, hello)
		if w.hasLeft(ctx) {
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

func (w *Worker) hasLeft(ctx context.Context) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isClosing || ctx.Err() != nil
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

// stream has one stream, over a connection of its own, until it ends: what with is the error, and nil if it is to be
// followed by another at once. Gives the welcome, if there was one.
func (w *Worker) stream(ctx context.Context, hello *pb.Hello) (*pb.Welcome, error) {
	conn, err := w.client.connect(anyOne)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	linked, cut := context.WithCancelCause(w.client.outgoing(ctx))
	defer cut(nil)
	call, message, err := greet(linked, cut, conn, w.resuming(hello))
	if err != nil {
		return nil, ending(linked, err)
	}
	welcome := message.GetWelcome()
	hello.SessionId = welcome.GetSessionId()
	w.welcomed(welcome)
	var heard moment
	heard.touch()
	written := make(chan struct{})
	go func() {
		defer close(written)
		w.write(linked, cut, call)
	}()
	defer func() { <-written }()
	defer cut(nil)
	go w.watch(linked, cut, welcome.GetHeartbeatInterval().AsDuration(), &heard)
	for ; err == nil; message, err = call.Recv() {
		heard.touch()
		w.received(message)
		if rotate := message.GetRotate(); rotate != nil {
			time.AfterFunc(jitter(rotate.GetWithin().AsDuration()), func() { cut(errMoved) })
		}
	}
	return welcome, ending(linked, err)
}

// ending gives what ended a stream: what it was cut for, or else what the service said.
func ending(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return fromRPC(err)
}

// greet says hello, and gives the message with the welcome.
func greet(
	ctx context.Context, cut context.CancelCauseFunc, conn *grpc.ClientConn, hello *pb.Hello,
) (workerStream, *pb.ConnectResponse, error) {
	late := &Error{Code: codes.Unavailable, Message: "the service did not say welcome in time"}
	defer time.AfterFunc(welcomeTimeout, func() { cut(late) }).Stop()
	call, err := pb.NewWorkerServiceClient(conn).Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	// What the sending fails with, the reading tells better.
	if err := call.Send(&pb.ConnectRequest{Hello: hello}); err != nil && err != io.EOF {
		return nil, nil, err
	}
	message, err := call.Recv()
	if err == nil && message.GetWelcome() == nil {
		err = late
	}
	return call, message, err
}

// write says what there is to say, as much as has gathered at a time.
func (w *Worker) write(ctx context.Context, cut context.CancelCauseFunc, call workerStream) {
	for {
		message, isClosing := w.take()
		if proto.Size(message) > 0 {
			err := call.Send(message)
			if err == io.EOF {
				// The reader knows why.
				return
			}
			if err != nil {
				cut(fromRPC(err))
				return
			}
			continue
		}
		if isClosing {
			_ = call.CloseSend()
			return
		}
		select {
		case <-w.filled:
		case <-ctx.Done():
			return
		}
	}
}

// moment is when something last happened, whatever becomes of the wall's clock.
type moment struct{ atomic.Pointer[time.Time] }

func (m *moment) touch() {
	now := time.Now()
	m.Store(&now)
}

// watch does what is timed: it shows life and asks for it, gives a silent stream up, and has said what was put off.
func (w *Worker) watch(
	ctx context.Context, cut context.CancelCauseFunc, interval time.Duration, heard *moment,
) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	pinged := time.Now()
	for pings := int64(1); ; {
		var now time.Time
		select {
		case now = <-ticker.C:
		case <-ctx.Done():
			return
		}
		silence := now.Sub(*heard.Load())
		if silence > silenceBeforeDeath {
			cut(&Error{Code: codes.Unavailable, Message: "nothing was heard for " + silence.String()})
			return
		}
		pause := interval - 2*tick
		if silence > silenceBeforePing {
			pause = time.Second
		}
		if now.Sub(pinged) >= pause {
			w.say(func(next *pb.ConnectRequest) { next.Ping = pings })
			pinged = now
			pings++
		}
		w.sendPutOff(now)
	}
}
