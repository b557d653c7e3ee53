package stepwell

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// Error is a refusal of the service. Reason says which one: errors.Is compares by it, so
// errors.Is(err, stepwell.ErrRunNotFound) holds for each refusal of that reason.
type Error struct {
	// Code is the canonical one.
	Code codes.Code
	// Reason is one of proto/stepwell/v1/error_reason.proto, such as RUN_NOT_FOUND. Empty if the service gave none.
	Reason string
	// Message is for people.
	Message string
	// Metadata are the facts of the reason, such as the run's id.
	Metadata map[string]string
	// Fields says what is wrong with which field of the request.
	Fields map[string]string
	// RetryAfter is the service's advice, 0 if it gave none.
	RetryAfter time.Duration

	hasAdvice bool
}

// Error gives the reason and the message.
func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", orElse(e.Reason, e.Code.String()), e.Message)
}

// Is tells whether the target is a refusal of the same reason, or of the same code if that one names no reason.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	if !ok {
		return false
	}
	if other.Reason != "" {
		return e.Reason == other.Reason
	}
	return e.Code == other.Code
}

// Reasons that programs ask for. Any other one can be asked for by its name: &stepwell.Error{Reason: "…"}.
var (
	ErrRunNotFound       = &Error{Code: codes.NotFound, Reason: "RUN_NOT_FOUND"}
	ErrJobNotFound       = &Error{Code: codes.NotFound, Reason: "JOB_NOT_FOUND"}
	ErrUniqueKeyInUse    = &Error{Code: codes.AlreadyExists, Reason: "UNIQUE_KEY_IN_USE"}
	ErrWorkflowIDInUse   = &Error{Code: codes.AlreadyExists, Reason: "WORKFLOW_ID_IN_USE"}
	ErrRunExists         = &Error{Code: codes.AlreadyExists, Reason: "RUN_EXISTS"}
	ErrRunTerminal       = &Error{Code: codes.FailedPrecondition, Reason: "RUN_TERMINAL"}
	ErrNamespaceNotFound = &Error{Code: codes.NotFound, Reason: "NAMESPACE_NOT_FOUND"}
	ErrNothingPublished  = &Error{Code: codes.NotFound, Reason: "NOTHING_PUBLISHED"}
	ErrQueryFailed       = &Error{Code: codes.FailedPrecondition, Reason: "QUERY_FAILED"}
	ErrInvalidField      = &Error{Code: codes.InvalidArgument, Reason: "INVALID_FIELD"}
)

var (
	// ErrRunCancelled is what calls of a Workflow give once in each branch after somebody asked the run to cancel. The
	// code may clean up, with further calls; then it should return the error, and the run ends as cancelled.
	ErrRunCancelled = errors.New("the run was asked to cancel")
	// ErrWaitTimeout is what a wait gives whose time was over first.
	ErrWaitTimeout = errors.New("the time to wait was over first")
	// ErrActivityCancelled is the cause with which an activity's context ends when it was asked to stop.
	ErrActivityCancelled = errors.New("the activity was asked to stop")
	// ErrClosed is what calls of a client that was closed give.
	ErrClosed = errors.New("the client is closed")
	// ErrTaskLost is the cause with which an activity's context ends when its task is not this worker's any more.
	ErrTaskLost = errors.New("the task is not this worker's any more")
)

// ApplicationError is a failure with a kind, made by workflow and activity code.
type ApplicationError struct {
	// Type is the kind, for programs and for retry policies. Default: "ApplicationError".
	Type string
	// Message is for people.
	Message string
	// NonRetryable says that another attempt can't help.
	NonRetryable bool
	// RetryAfter is the delay before the next attempt, in place of the policy's. 0: the policy's.
	RetryAfter time.Duration
	// Details are kept with the failure, by the client's converter.
	Details any
	// Cause is what it wraps, if anything.
	Cause error
}

// Error gives the message.
func (e *ApplicationError) Error() string { return e.Message }

// Unwrap gives the cause.
func (e *ApplicationError) Unwrap() error { return e.Cause }

// StepError is what a call of a Workflow gives for a step that failed for good: an activity, a child, a checkpoint.
type StepError struct {
	// Name is the step's.
	Name string
	// Failure says why, as it is recorded.
	Failure *pb.Failure
}

// Error names the step, and says why it failed.
func (e *StepError) Error() string {
	return fmt.Sprintf("%s failed: %s: %s", e.Name, e.Failure.GetType(), e.Failure.GetMessage())
}

// RunError is what Run.Result and Job.Result give for what did not end well.
type RunError struct {
	// ID is the run's, or the job's.
	ID string
	// Ended says how: FAILED, CANCELLED, TERMINATED, TIMED_OUT, or PURGED if what it came to is archived or pruned.
	Ended string
	// Failure says why; nil if nothing is recorded of it.
	Failure *pb.Failure
}

// Error says how it ended, and why.
func (e *RunError) Error() string {
	if e.Failure == nil {
		return fmt.Sprintf("%s ended %s", e.ID, e.Ended)
	}
	return fmt.Sprintf("%s ended %s: %s: %s", e.ID, e.Ended, e.Failure.GetType(), e.Failure.GetMessage())
}

// textMost is how long a message or a stack may be, so that any number of reports get through. The service cuts as well.
const textMost = 16_000

// failureOf spells an error as the protocol has it. Without a converter its details are left out.
func failureOf(err error, converter Converter) *pb.Failure {
	failure := &pb.Failure{Message: bounded(err.Error()), Type: typeOf(err)}
	var application *ApplicationError
	var panicked *panicError
	var step *StepError
	var refused *Error
	switch {
	case errors.As(err, &application):
		failure.Type = orElse(application.Type, "ApplicationError")
		failure.NonRetryable = application.NonRetryable
		failure.NextRetryDelay = durationOf(application.RetryAfter)
		if application.Details != nil && converter != nil {
			// What can't be written is left out: the failure itself matters more.
			failure.Details, _ = converter.ToPayload(application.Details)
		}
	case errors.As(err, &panicked):
		failure.Type, failure.StackTrace = "Panic", bounded(panicked.stack)
	case errors.As(err, &step):
		failure.Details = step.Failure.GetDetails()
	case errors.As(err, &refused) && refused.Reason != "":
		failure.Type, failure.NonRetryable = refused.Reason, refused.Code == codes.InvalidArgument
	}
	return failure
}

// typeOf names the kind of an error: its Go type, without the pointer.
func typeOf(err error) string {
	switch name := strings.TrimPrefix(reflect.TypeOf(err).String(), "*"); name {
	case "errors.errorString", "fmt.wrapError", "fmt.wrapErrors", "errors.joinError":
		return "error"
	default:
		return name
	}
}

// bounded cuts a text, and takes out what no message can carry.
func bounded(text string) string { return strings.ToValidUTF8(text[:min(len(text), textMost)], "?") }

// panicError is a panic of the user's code.
type panicError struct {
	value any
	stack string
}

// errExited stands for what a function comes to that does not return.
var errExited = &panicError{value: "the function ended its goroutine, as runtime.Goexit and a test's FailNow do"}

func (e *panicError) Error() string { return fmt.Sprint(e.value) }

// guarded calls a function and gives its panic as an error.
func guarded[O any](call func() (O, error)) (result O, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicError{value, string(debug.Stack())}
		}
	}()
	if result, err = call(); err != nil {
		// One that can't be read, such as a nil pointer in an interface, panics here and not where nobody is on guard.
		_ = failureOf(err, nil)
	}
	return result, err
}

// fromRPC reads what a call failed with.
func fromRPC(err error) error {
	if errors.Is(err, io.EOF) {
		return &Error{Code: codes.Unavailable, Message: "the service ended the stream"}
	}
	return fromStatus(status.Convert(err).Proto())
}

// fromStatus reads an error as it stands in an answer.
func fromStatus(given *spb.Status) *Error {
	found := status.FromProto(given)
	failed := &Error{Code: found.Code(), Message: found.Message()}
	for _, detail := range found.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			failed.Reason = detail.GetReason()
			failed.Metadata = detail.GetMetadata()
		case *errdetails.RetryInfo:
			failed.RetryAfter = detail.GetRetryDelay().AsDuration()
			failed.hasAdvice = true
		case *errdetails.BadRequest:
			failed.Fields = map[string]string{}
			for _, violation := range detail.GetFieldViolations() {
				failed.Fields[violation.GetField()] = violation.GetDescription()
			}
		}
	}
	return failed
}

// isPassing tells whether the same call may succeed a little later.
func isPassing(err error) bool {
	var failed *Error
	if !errors.As(err, &failed) {
		return false
	}
	switch failed.Code {
	// Canceled is what a server had not taken in yet when it ended. Who cancels a call of its own gets another error.
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return failed.hasAdvice
}
