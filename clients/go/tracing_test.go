package stepwell

import (
	"context"
	"net"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	traceOfTest = "0af7651916cd43dd8448eb211c80319c"
	spanOfTest  = "b7ad6b7169203331"
)

func TestATraceIsGoneOnWithWhateverFlagsItHas(t *testing.T) {
	// 03: sampled, and of a trace whose id is random; a later edition of the standard than most know.
	for flags, isSampled := range map[string]bool{"00": false, "01": true, "02": false, "03": true, "ff": true} {
		ctx := withRemoteTrace(context.Background(), &pb.Task{
			Traceparent: "00-" + traceOfTest + "-" + spanOfTest + "-" + flags, Tracestate: "vendor=1",
		})
		found := trace.SpanContextFromContext(ctx)
		if !found.IsRemote() || found.IsSampled() != isSampled {
			t.Errorf("%s: remote %v, sampled %v", flags, found.IsRemote(), found.IsSampled())
		}
		if found.TraceID().String() != traceOfTest || found.SpanID().String() != spanOfTest {
			t.Errorf("%s: %s %s", flags, found.TraceID(), found.SpanID())
		}
		if found.TraceState().Get("vendor") != "1" {
			t.Errorf("%s: the state is %s", flags, found.TraceState())
		}
	}
}

func TestWhatIsNoTraceIsLeft(t *testing.T) {
	for _, parent := range []string{
		"", "00", "00-x-y-01", "00-" + traceOfTest + "-" + spanOfTest, "00-" + traceOfTest + "-" + spanOfTest + "-zz",
		"00-" + traceOfTest + "-0000000000000000-01",
	} {
		if trace.SpanContextFromContext(withRemoteTrace(context.Background(), &pb.Task{Traceparent: parent})).IsValid() {
			t.Errorf("%q is taken for a trace", parent)
		}
	}
}

// TestEachCallSaysWhoseItIs: its key and its trace, also one of a generated stub, and a worker's stream.
func TestEachCallSaysWhoseItIs(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan metadata.MD, 2)
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		found, _ := metadata.FromIncomingContext(stream.Context())
		said <- found
		return status.Error(codes.PermissionDenied, "no")
	}))
	defer server.Stop()
	go func() { _ = server.Serve(listener) }()
	client, err := Dial(listener.Addr().String(), WithAPIKey("secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	parent := "00-" + traceOfTest + "-" + spanOfTest + "-01"
	ctx := withRemoteTrace(context.Background(), &pb.Task{Traceparent: parent, Tracestate: "vendor=1"})
	if _, err := client.Schedules.ListSchedules(ctx, &pb.ListSchedulesRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	if err := NewWorker(client, WorkerOptions{}).Run(ctx); err == nil {
		t.Fatal("the worker was refused, and does not say so")
	}
	for range 2 {
		found := <-said
		for name, want := range map[string]string{
			"authorization": "Bearer secret", "traceparent": parent, "tracestate": "vendor=1",
		} {
			if got := found.Get(name); len(got) != 1 || got[0] != want {
				t.Error(name, got)
			}
		}
	}
}
