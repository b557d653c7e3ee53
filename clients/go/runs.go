package stepwell

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// Run is a handle of one run.
type Run struct {
	client     *Client
	id         string
	workflowID string
	expected   *awaited
}

// Run gives a handle of a run by its id. Nothing is asked of the service.
func (c *Client) Run(runID string) *Run { return &Run{client: c, id: runID} }

// RunOf gives a handle of the open run of a workflow id, or else of its latest.
func (c *Client) RunOf(ctx context.Context, workflowID string) (*Run, error) {
	request := &pb.GetRunRequest{Namespace: c.options.namespace, WorkflowId: workflowID}
	answer, err := invoke(ctx, c, c.Runs.GetRun, request)
	if err != nil {
		return nil, err
	}
	return &Run{client: c, id: answer.GetRun().GetRunId(), workflowID: workflowID}, nil
}

// ID is the run's own, a UUID.
func (r *Run) ID() string { return r.id }

// WorkflowID is the caller's name for it, as far as the handle knows.
func (r *Run) WorkflowID() string { return r.workflowID }

// Result waits for the end of the run, or of the one that finally goes on with its work, and reads what it returned into
// what target points to (nil: it is not looked at). Gives a *RunError if it did not end well. One stream serves all waits
// of a client.
func (r *Run) Result(ctx context.Context, target any) error {
	end, err := r.client.runEnds.wait(ctx, r.id, r.expected)
	if err != nil {
		return err
	}
	return end.read(r.client.options.converter, target)
}

// Describe reads the run as it is.
func (r *Run) Describe(ctx context.Context) (*pb.Run, error) {
	request := &pb.GetRunRequest{Namespace: r.client.options.namespace, RunId: r.id}
	answer, err := invoke(ctx, r.client, r.client.Runs.GetRun, request)
	return answer.GetRun(), err
}

// Signal tells the run something by a name. It is kept until the run's code takes it. Signals of several goroutines go
// out together; each is recorded once, also if it had to be sent twice.
func (r *Run) Signal(ctx context.Context, name string, value any) error {
	payload, err := r.client.options.converter.ToPayload(value)
	if err != nil {
		return err
	}
	request := &pb.SignalRunRequest{RunId: r.id, SignalName: name, Payload: payload, RequestId: uuid7("")}
	_, err = r.client.signals.submit(ctx, request)
	return err
}

// Query asks the run's code, or what it published if nobody has it in memory, and reads the answer into what target
// points to. A code that could not answer gives an *Error with the reason QUERY_FAILED, whose metadata say why.
func (r *Run) Query(ctx context.Context, name string, input, target any) error {
	payload, err := r.client.options.converter.ToPayload(input)
	if err != nil {
		return err
	}
	request := &pb.QueryRunRequest{
		Namespace: r.client.options.namespace, RunId: r.id, QueryName: name, Input: payload,
	}
	answer, err := invoke(ctx, r.client, r.client.Runs.QueryRun, request)
	if err != nil {
		return err
	}
	return r.client.options.converter.FromPayload(answer.GetResult(), target)
}

// Update asks the run's code for a change, and reads what came of it into what target points to. A repeat with the same
// id, which is made here if it is empty, finds what is recorded. What was rejected or failed gives a *StepError.
func (r *Run) Update(ctx context.Context, name, id string, input, target any) error {
	payload, err := r.client.options.converter.ToPayload(input)
	if err != nil {
		return err
	}
	if id == "" {
		id = uuid7("")
	}
	request := &pb.UpdateRunRequest{
		Namespace: r.client.options.namespace, RunId: r.id, UpdateName: name, Input: payload, UpdateId: id,
		Wait: durationpb.New(15 * time.Second),
	}
	answer, err := invoke(ctx, r.client, r.client.Runs.UpdateRun, request)
	if err != nil {
		return err
	}
	for _, failure := range []*pb.Failure{answer.GetRejection(), answer.GetFailure()} {
		if failure != nil {
			return &StepError{Name: name, Failure: failure}
		}
	}
	return r.client.options.converter.FromPayload(answer.GetResult(), target)
}

// Cancel asks the run to end after its clean-up. False if it had ended.
func (r *Run) Cancel(ctx context.Context, reason string) (bool, error) {
	request := &pb.CancelRunRequest{
		Namespace: r.client.options.namespace, RunId: r.id, Reason: reason, RequestId: uuid7(""),
	}
	answer, err := invoke(ctx, r.client, r.client.Runs.CancelRun, request)
	return answer.GetAccepted(), err
}

// Terminate ends the run at once, without clean-up. False if it had ended.
func (r *Run) Terminate(ctx context.Context, reason string) (bool, error) {
	request := &pb.TerminateRunRequest{
		Namespace: r.client.options.namespace, RunId: r.id, Reason: reason, RequestId: uuid7(""),
	}
	answer, err := invoke(ctx, r.client, r.client.Runs.TerminateRun, request)
	return answer.GetAccepted(), err
}
