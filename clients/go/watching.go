package stepwell

import (
	"context"
	"iter"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	// longestWait is how long one call has the service wait for an end, if calls may take twice as long.
	longestWait = 30 * time.Second
	// endingDigits leave ids as good as random, and yet two clients seldom hear of each other's.
	endingDigits = 4
)

// WatchRuns follows the ends of the namespace's runs from now on, over streams that come and go. It ends with an error:
// the context's, or that of the service when it refuses for good.
func (c *Client) WatchRuns(ctx context.Context) iter.Seq2[*pb.WatchRunsResponse_End, error] {
	return oneByOne(c.runNews(ctx, ""))
}

// WatchJobs follows the ends of the namespace's jobs, as WatchRuns does those of runs.
func (c *Client) WatchJobs(ctx context.Context) iter.Seq2[*pb.WatchJobsResponse_End, error] {
	return oneByOne(c.jobNews(ctx, ""))
}

func (c *Client) runNews(ctx context.Context, ending string) iter.Seq2[[]*pb.WatchRunsResponse_End, error] {
	return news[*pb.WatchRunsResponse_End](ctx, c, c.Runs.WatchRuns, func(cursor string) *pb.WatchRunsRequest {
		return &pb.WatchRunsRequest{Namespace: c.options.namespace, Cursor: cursor, IdSuffix: ending}
	})
}

func (c *Client) jobNews(ctx context.Context, ending string) iter.Seq2[[]*pb.WatchJobsResponse_End, error] {
	return news[*pb.WatchJobsResponse_End](ctx, c, c.Jobs.WatchJobs, func(cursor string) *pb.WatchJobsRequest {
		return &pb.WatchJobsRequest{Namespace: c.options.namespace, Cursor: cursor, IdSuffix: ending}
	})
}

// news gives a watch's messages; where a stream breaks, another goes on from there.
func news[E, Q, M any, P interface {
	*M
	GetEnds() []E
	GetCursor() string
}](
	ctx context.Context, c *Client,
	watch func(context.Context, *Q, ...grpc.CallOption) (grpc.ServerStreamingClient[M], error),
	from func(cursor string) *Q,
) iter.Seq2[[]E, error] {
	return func(yield func([]E, error) bool) {
		following, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)()
		cursor := ""
		for attempt := 0; ; attempt++ {
			stream, err := watch(following, from(cursor))
			for err == nil {
				var message P
				if message, err = stream.Recv(); err == nil {
					attempt, cursor = 0, orElse(message.GetCursor(), cursor)
					if !yield(message.GetEnds(), nil) {
						return
					}
				}
			}
			err = fromRPC(err)
			switch {
			case c.ctx.Err() != nil:
				err = ErrClosed
			case ctx.Err() != nil:
				err = context.Cause(ctx)
			case isPassing(err):
				sleep(following, backoff(attempt, err))
				continue
			}
			yield(nil, err)
			return
		}
	}
}

func oneByOne[E any](all iter.Seq2[[]E, error]) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		for ends, err := range all {
			for _, end := range ends {
				if !yield(end, nil) {
					return
				}
			}
			if err != nil {
				var none E
				yield(none, err)
			}
		}
	}
}

// ended is how something ended.
type ended struct {
	id, next, how string
	result        *pb.Payload
	failure       *pb.Failure
}

const (
	completed = "COMPLETED"
	purged    = "PURGED"
)

func (e *ended) read(converter Converter, target any) error {
	if e.how != completed {
		return &RunError{ID: e.id, Ended: e.how, Failure: e.failure}
	}
	return converter.FromPayload(e.result, target)
}

func endOfRun(told *pb.WatchRunsResponse_End) *ended {
	how := strings.TrimPrefix(told.GetPhase().String(), "RUN_PHASE_")
	if told.GetPurged() {
		how = purged
	}
	return &ended{told.GetRunId(), told.GetContinuedRunId(), how, told.GetResult(), told.GetFailure()}
}

func endOfJob(told *pb.WatchJobsResponse_End) *ended {
	how := strings.TrimPrefix(told.GetState().String(), "JOB_STATE_")
	return &ended{told.GetJobId(), "", how, told.GetResult(), told.GetFailure()}
}

// waitForRun waits a while for the end of a run, or of the one that finally goes on with its work: nil if it goes on.
func (c *Client) waitForRun(ctx context.Context, id string) (*ended, error) {
	request := &pb.WaitRunRequest{Namespace: c.options.namespace, RunId: id, Wait: c.wait()}
	answer, err := patiently(ctx, c, c.Runs.WaitRun, request)
	if run := answer.GetRun(); answer.GetEnded() {
		return endOfRun(&pb.WatchRunsResponse_End{
			RunId: run.GetRunId(), Phase: run.GetPhase(), Purged: run.GetPurged(), Result: run.GetResult(),
			Failure: run.GetFailure(),
		}), nil
	}
	return nil, err
}

// waitForJob does so for a job.
func (c *Client) waitForJob(ctx context.Context, id string) (*ended, error) {
	request := &pb.WaitJobRequest{Namespace: c.options.namespace, JobId: id, Wait: c.wait()}
	answer, err := patiently(ctx, c, c.Jobs.WaitJob, request)
	if job := answer.GetJob(); answer.GetEnded() {
		return endOfJob(&pb.WatchJobsResponse_End{
			JobId: id, State: job.GetState(), Result: job.GetResult(), Failure: job.GetFailure(),
		}), nil
	}
	return nil, err
}

func (c *Client) wait() *durationpb.Duration {
	return durationpb.New(min(longestWait, c.options.callTimeout/2))
}

// patiently calls a method that waits: for as long as a call with all its repeats may take.
func patiently[Q, A any](
	ctx context.Context, client *Client, method func(context.Context, *Q, ...grpc.CallOption) (*A, error), request *Q,
) (*A, error) {
	return repeated(ctx, client, func(time.Duration) (*A, error) {
		return once(ctx, client, method, request, client.options.callTimeout)
	})
}

// watcher hears of the ends of what its client starts: one stream serves all these waits.
//
// The ids that a client makes end alike, and the stream tells of no others. What was started by somebody else, or before
// the stream was live, is waited for by a call of its own.
type watcher[E interface{ GetResultOmitted() bool }] struct {
	client *Client
	ending string
	news   func(ctx context.Context, ending string) iter.Seq2[[]E, error]
	endOf  func(end E) *ended
	ask    func(ctx context.Context, id string) (*ended, error)
	begin  sync.Once

	mu     sync.Mutex
	isLive bool
	waits  map[string]*awaited
}

// awaited is an end to come. Once it is done without one, the service is to be asked.
type awaited struct {
	id   string
	end  *ended
	done chan struct{}
}

func newWatcher[E interface{ GetResultOmitted() bool }](
	client *Client, news func(context.Context, string) iter.Seq2[[]E, error], endOf func(E) *ended,
	ask func(context.Context, string) (*ended, error),
) *watcher[E] {
	id := uuid7("")
	return &watcher[E]{
		client: client, ending: id[len(id)-endingDigits:], news: news, endOf: endOf, ask: ask, waits: map[string]*awaited{},
	}
}

// expect makes the id of what is about to be started, and what hears of its end: nil if the stream is not live yet.
func (w *watcher[E]) expect() (string, *awaited) {
	id := uuid7(w.ending)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.isLive {
		return id, nil
	}
	expected := &awaited{id: id, done: make(chan struct{})}
	w.waits[id] = expected
	return id, expected
}

// forget takes back what was expected.
func (w *watcher[E]) forget(expected *awaited) {
	if expected != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waits, expected.id)
	}
}

// wait gives the end of what finally goes on in the place of an id.
func (w *watcher[E]) wait(ctx context.Context, id string, expected *awaited) (*ended, error) {
	w.begin.Do(func() { go w.follow() })
	if expected != nil {
		select {
		case <-expected.done:
			if end := expected.end; end != nil && end.how == completed && end.next == "" {
				return end, nil
			}
			// It goes on as another one, or was too large to be told along, or may have been begun anew since.
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-w.client.ctx.Done():
			return nil, ErrClosed
		}
	}
	for {
		if end, err := w.ask(ctx, id); end != nil || err != nil {
			return end, err
		}
	}
}

func (w *watcher[E]) follow() {
	for attempt := 0; w.client.ctx.Err() == nil; attempt++ {
		for ends, err := range w.news(w.client.ctx, w.ending) {
			if err == nil {
				attempt = 0
				w.receive(ends)
				continue
			}
			w.lose()
			sleep(w.client.ctx, backoff(attempt, err))
		}
	}
}

func (w *watcher[E]) receive(ends []E) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isLive = true
	for _, each := range ends {
		end := w.endOf(each)
		if found := w.waits[end.id]; found != nil {
			if !each.GetResultOmitted() {
				found.end = end
			}
			close(found.done)
			delete(w.waits, end.id)
		}
	}
}

// lose has all who wait ask: where the stream broke off is not known any more.
func (w *watcher[E]) lose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isLive = false
	for _, found := range w.waits {
		close(found.done)
	}
	clear(w.waits)
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
