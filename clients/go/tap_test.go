package stepwell_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const connectMethod = "/stepwell.v1.WorkerService/Connect"

// tap stands between a worker and the service. It passes on what either says, and lets a test change, hold back or make
// up messages of the workers' streams, and refuse calls.
type tap struct {
	address string
	service *grpc.ClientConn

	mu sync.Mutex
	// up and down see each message of a worker's stream, and give what goes on in its place: nil drops it.
	up   func(s *tapped, message *pb.ConnectRequest) *pb.ConnectRequest
	down func(s *tapped, message *pb.ConnectResponse) *pb.ConnectResponse
	// refuse gives the error that a call is answered with in place of being passed on.
	refuse func(method string) error
	// answered sees the answer of each other call before the caller does.
	answered func(method string, text []byte)
	// streams are all that there were.
	streams []*tapped
	// watches end the watches of runs that there were.
	watches []context.CancelFunc
}

// tapped is one stream of a worker.
type tapped struct {
	sending    sync.Mutex
	worker     grpc.ServerStream
	cut        context.CancelFunc
	peer       string
	said       []*pb.ConnectRequest
	halfClosed chan struct{}
}

// say tells the worker something that the service did not say.
func (s *tapped) say(message *pb.ConnectResponse) {
	text, err := proto.Marshal(message)
	if err != nil {
		panic(err)
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	_ = s.worker.SendMsg(&frame{text})
}

// newTap starts a tap before the service under test. Its hooks are to be set with set.
func newTap(t *testing.T) *tap {
	t.Helper()
	service, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tap := &tap{address: listener.Addr().String(), service: service}
	server := grpc.NewServer(
		grpc.ForceServerCodec(frames{}), grpc.UnknownServiceHandler(tap.pass), grpc.MaxRecvMsgSize(16<<20),
	)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		_ = service.Close()
	})
	return tap
}

// set changes the hooks.
func (t *tap) set(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
}

func (t *tap) pass(_ any, worker grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(worker)
	t.mu.Lock()
	refuse := t.refuse
	t.mu.Unlock()
	if refuse != nil {
		if err := refuse(method); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(worker.Context())
	defer cancel()
	if found, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, found)
	}
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	service, err := t.service.NewStream(ctx, both, method, grpc.ForceCodec(frames{}), grpc.MaxCallRecvMsgSize(16<<20))
	if err != nil {
		return err
	}
	from, _ := peer.FromContext(ctx)
	s := &tapped{worker: worker, cut: cancel, peer: from.Addr.String(), halfClosed: make(chan struct{})}
	if method == connectMethod {
		t.mu.Lock()
		t.streams = append(t.streams, s)
		t.mu.Unlock()
	}
	if strings.HasSuffix(method, "/WatchRuns") {
		t.mu.Lock()
		t.watches = append(t.watches, cancel)
		t.mu.Unlock()
	}
	go t.passUp(s, service, method)
	return t.passDown(s, service, method)
}

func (t *tap) passUp(s *tapped, service grpc.ClientStream, method string) {
	for {
		var said frame
		if err := s.worker.RecvMsg(&said); err != nil {
			if err == io.EOF {
				close(s.halfClosed)
				_ = service.CloseSend()
			}
			return
		}
		if method == connectMethod && !t.changeUp(s, &said) {
			continue
		}
		if service.SendMsg(&said) != nil {
			return
		}
	}
}

func (t *tap) changeUp(s *tapped, said *frame) bool {
	message := &pb.ConnectRequest{}
	if err := proto.Unmarshal(said.text, message); err != nil {
		panic(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.said = append(s.said, proto.Clone(message).(*pb.ConnectRequest))
	if t.up == nil {
		return true
	}
	if message = t.up(s, message); message == nil {
		return false
	}
	said.text, _ = proto.Marshal(message)
	return true
}

func (t *tap) passDown(s *tapped, service grpc.ClientStream, method string) error {
	for {
		var said frame
		if err := service.RecvMsg(&said); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if method == connectMethod && !t.changeDown(s, &said) {
			continue
		}
		t.mu.Lock()
		answered := t.answered
		t.mu.Unlock()
		if answered != nil && method != connectMethod {
			answered(method, said.text)
		}
		s.sending.Lock()
		err := s.worker.SendMsg(&said)
		s.sending.Unlock()
		if err != nil {
			return err
		}
	}
}

func (t *tap) changeDown(s *tapped, said *frame) bool {
	t.mu.Lock()
	down := t.down
	t.mu.Unlock()
	if down == nil {
		return true
	}
	message := &pb.ConnectResponse{}
	if err := proto.Unmarshal(said.text, message); err != nil {
		panic(err)
	}
	if message = down(s, message); message == nil {
		return false
	}
	said.text, _ = proto.Marshal(message)
	return true
}

// heard gives all that workers said on their streams so far, in its order.
func (t *tap) heard() []*pb.ConnectRequest {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*pb.ConnectRequest
	for _, s := range t.streams {
		all = append(all, s.said...)
	}
	return all
}

// frame is a message that is passed on as it is.
type frame struct{ text []byte }

type frames struct{}

func (frames) Marshal(value any) ([]byte, error) { return value.(*frame).text, nil }
func (frames) Unmarshal(text []byte, value any) error {
	value.(*frame).text = append([]byte(nil), text...)
	return nil
}
func (frames) Name() string { return "proto" }
