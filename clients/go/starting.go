package stepwell

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// StartOption is an option of a start.
type StartOption func(*pb.StartRunRequest)

// WithWorkflowID gives the run the caller's name for it: unique among the namespace's open runs.
func WithWorkflowID(id string) StartOption { return func(r *pb.StartRunRequest) { r.WorkflowId = id } }

// WithTaskQueue names the queue of the run's tasks. Default: "default".
func WithTaskQueue(queue string) StartOption {
	return func(r *pb.StartRunRequest) { r.TaskQueue = queue }
}

// WithRunTimeout ends the run so long after its start.
func WithRunTimeout(timeout time.Duration) StartOption {
	return func(r *pb.StartRunRequest) { r.RunTimeout = durationpb.New(timeout) }
}

// WithStartDelay begins the run no sooner than so long after its start.
func WithStartDelay(delay time.Duration) StartOption {
	return func(r *pb.StartRunRequest) { r.StartDelay = durationpb.New(delay) }
}

// WithPriority says which tasks go first: 0 to 9, higher first. Default: 4.
func WithPriority(priority int) StartOption {
	return func(r *pb.StartRunRequest) { r.Priority = proto.Int32(int32(priority)) }
}

// WithRunRetry begins the run anew when its code fails.
func WithRunRetry(policy RetryPolicy) StartOption {
	return func(r *pb.StartRunRequest) { r.Retry = policy.spell() }
}

// WithStart changes the request itself, for what has no option of its own: its policies, a debounce, a request id that
// makes a repeat safe by another process too.
func WithStart(change func(*pb.StartRunRequest)) StartOption { return change }

// StartRun starts a run of a workflow by its type. It is recorded when this returns. Starts of several goroutines go out
// together. A repeat after a lost answer is recognised, so that nothing is started twice.
func (c *Client) StartRun(ctx context.Context, workflow string, input any, options ...StartOption) (*Run, error) {
	payload, err := c.options.converter.ToPayload(input)
	if err != nil {
		return nil, err
	}
	request := &pb.StartRunRequest{Type: workflow, Input: payload}
	for _, option := range options {
		option(request)
	}
	var expected *awaited
	if request.RequestId == "" && request.RunId == "" && request.Debounce == nil {
		request.RunId, expected = c.runEnds.expect()
	}
	request.RequestId = orElse(request.RequestId, orElse(request.RunId, uuid7("")))
	answer, err := c.starts.submit(ctx, request)
	if err != nil || answer.GetRunId() != request.RunId || !answer.GetStarted() {
		// What it found may have ended before anybody looked.
		c.runEnds.forget(expected)
		expected = nil
	}
	if err != nil {
		return nil, err
	}
	return &Run{client: c, id: answer.GetRunId(), workflowID: request.GetWorkflowId(), expected: expected}, nil
}
