package stepwell

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// queries is what a run's code tells those who ask: by functions while it is in memory, by published values when not.
type queries struct {
	functions map[string]func(struct{}, *pb.Payload) (*pb.Payload, error)
	values    map[string]*pb.Payload
	changed   map[string]*pb.Payload
	waiting   []*pb.Query
}

func newQueries() queries {
	return queries{
		functions: map[string]func(struct{}, *pb.Payload) (*pb.Payload, error){},
		values:    map[string]*pb.Payload{}, changed: map[string]*pb.Payload{},
	}
}

// take takes the values that were published since the last time.
func (q *queries) take() map[string]*pb.Payload {
	taken := q.changed
	q.changed = map[string]*pb.Payload{}
	return taken
}

// answer answers those who asked, once the code is as far as its record.
func (q *queries) answer(x *execution) {
	if !x.caughtUp {
		return
	}
	for _, query := range q.waiting {
		answer := &pb.QueryAnswer{Correlation: query.GetCorrelation(), Ref: x.task.GetRef()}
		if result, failure := q.find(x, query); failure != nil {
			answer.Outcome = &pb.QueryAnswer_Failure{Failure: failure}
		} else {
			answer.Outcome = &pb.QueryAnswer_Result{Result: result}
		}
		x.worker.say(func(next *pb.ConnectRequest) { next.Answers = append(next.Answers, answer) })
	}
	q.waiting = nil
}

func (q *queries) find(x *execution, query *pb.Query) (*pb.Payload, *pb.Failure) {
	function := q.functions[query.GetName()]
	if function == nil {
		if value := q.values[query.GetName()]; value != nil {
			return value, nil
		}
		message := fmt.Sprintf("the code has no query %s; it has: %s", query.GetName(), q.names())
		return nil, &pb.Failure{Message: message, Type: "UnknownQuery"}
	}
	result, err := guarded(func() (*pb.Payload, error) { return function(struct{}{}, query.GetInput()) })
	if err != nil {
		slog.Debug("a query failed", "run_id", x.task.GetRunId(), "query", query.GetName(), "error", err)
		return nil, failureOf(err, x.worker.converter)
	}
	if result == nil {
		result = &pb.Payload{}
	}
	return result, nil
}

func (q *queries) names() string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(q.functions)), maps.Keys(q.values))
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
