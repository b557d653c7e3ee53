package stepwell

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	// retryDelay is before a report that was refused in passing goes out again, where the service gave no advice.
	retryDelay = 500 * time.Millisecond
	// faultsMost is how often a report is sent again that the service itself is at fault for refusing.
	faultsMost = 5
)

// verdict is what a refused report leads to.
type verdict int

const (
	// sendAgain: the task is still held, and the same report may be taken a little later.
	sendAgain verdict = iota
	// sendAgainFewTimes: the same, but the service is at fault, and may stay so.
	sendAgainFewTimes
	// failWith: the report can't be recorded, ever. The task is still held, and fails with that.
	failWith
	// dropTask: it is not this worker's any more.
	dropTask
	// giveBack: nothing is to be done about it here, and the task may still be held.
	giveBack
)

// verdictOf goes by the reason, and by the code where there is none that says more.
func verdictOf(failed *Error) verdict {
	switch failed.Reason {
	case "LEASE_LOST", "STEP_ORDER_CHANGED", "RUN_NOT_FOUND", "RUN_TERMINAL", "JOB_NOT_FOUND":
		return dropTask
	case "INVALID_FIELD", "LIMIT_EXCEEDED":
		return failWith
	}
	switch failed.Code {
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded, codes.Canceled, codes.ResourceExhausted:
		return sendAgain
	case codes.Internal, codes.Unknown:
		return sendAgainFewTimes
	case codes.InvalidArgument:
		return failWith
	}
	if failed.hasAdvice {
		return sendAgain
	}
	return giveBack
}

// refusals judges those of one task's reports.
type refusals struct {
	faults    int
	isFailing bool
}

// judge is verdictOf, with what happened before in mind.
func (r *refusals) judge(failed *Error) verdict {
	switch found := verdictOf(failed); {
	case found == sendAgainFewTimes:
		if r.faults++; r.faults > faultsMost {
			return giveBack
		}
		return sendAgain
	case found == failWith && r.isFailing:
		// Not even the failure can be recorded.
		return giveBack
	case found == failWith:
		r.isFailing = true
		return found
	default:
		return found
	}
}

// delayOf is the time before a report that was refused in passing goes out again.
func delayOf(failed *Error) time.Duration {
	if failed.hasAdvice {
		return failed.RetryAfter + jitter(failed.RetryAfter)
	}
	return jitter(2 * retryDelay)
}

// failureFrom is what a task fails with whose report can't be recorded.
func failureFrom(failed *Error) *pb.Failure {
	return &pb.Failure{Message: storable(failed.Error(), messageLength), Type: failed.Reason, NonRetryable: true}
}

// tooLarge is the answer to a report that would not even get to the service.
func tooLarge(report *pb.Report, size int) *pb.ReportResult {
	problem := fmt.Sprintf("it has %d bytes, and a message at most %d: send a reference", size, reportMost)
	refused, err := status.New(codes.InvalidArgument, "the report is too large: "+problem).WithDetails(
		&errdetails.ErrorInfo{Reason: "INVALID_FIELD", Domain: "stepwell"},
	)
	if err != nil {
		panic(err)
	}
	return &pb.ReportResult{
		Correlation: report.GetCorrelation(), Status: pb.ReportResult_STATUS_REFUSED, Error: refused.Proto(),
	}
}
