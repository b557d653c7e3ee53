package stepwell

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/trace"

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
