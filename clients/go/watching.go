package stepwell

import (
	"context"
	"iter"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

const (
	// watchPatience is how long a wait leaves the reading to the stream, which may not come.
	watchPatience = 5 * time.Second
	watchReaders  = 32
)

// WatchRuns follows the ends of the namespace's runs from now on, over streams that come and go. It ends with an error:
// the context's, or that of the service when it refuses for good.
func (c *Client) WatchRuns(ctx context.Context) iter.Seq2[*pb.WatchRunsResponse_End, error] {
	return oneByOne(c.runNews(ctx))
}

// WatchJobs follows the ends of the namespace's jobs, as WatchRuns does those of runs.
func (c *Client) WatchJobs(ctx context.Context) iter.Seq2[*pb.WatchJobsResponse_End, error] {
	return oneByOne(c.jobNews(ctx))
}

func (c *Client) runNews(ctx context.Context) iter.Seq2[[]*pb.WatchRunsResponse_End, error] {
	return news[*pb.WatchRunsResponse_End](ctx, c, c.Runs.WatchRuns, func(cursor string) *pb.WatchRunsRequest {
		return &pb.WatchRunsRequest{Namespace: c.options.namespace, Cursor: cursor}
	})
}

func (c *Client) jobNews(ctx context.Context) iter.Seq2[[]*pb.WatchJobsResponse_End, error] {
	return news[*pb.WatchJobsResponse_End](ctx, c, c.Jobs.WatchJobs, func(cursor string) *pb.WatchJobsRequest {
		return &pb.WatchJobsRequest{Namespace: c.options.namespace, Cursor: cursor}
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

// lookAtRun reads the end of a run, nil if it goes on.
func (c *Client) lookAtRun(ctx context.Context, id string) (*ended, error) {
	run, err := c.Run(id).Describe(ctx)
	if err != nil || run.GetPhase() < pb.RunPhase_RUN_PHASE_COMPLETED {
		return nil, err
	}
	return endOfRun(&pb.WatchRunsResponse_End{
		RunId: id, ContinuedRunId: run.GetContinuedRunId(), Phase: run.GetPhase(), Purged: run.GetPurged(),
		Result: run.GetResult(), Failure: run.GetFailure(),
	}), nil
}

func (c *Client) lookAtJob(ctx context.Context, id string) (*ended, error) {
	job, err := c.Job(id).Describe(ctx)
	if err != nil || job.GetState() < pb.JobState_JOB_STATE_COMPLETED {
		return nil, err
	}
	return endOfJob(&pb.WatchJobsResponse_End{
		JobId: id, State: job.GetState(), Result: job.GetResult(), Failure: job.GetFailure(),
	}), nil
}

// watcher hears of ends: one stream serves all waits of a client.
//
// A wait is registered first; then, unless the stream was live before the thing was started, that is read once. So an
// end is seen in one way or the other: it comes after the watch began, or the reading finds it.
type watcher[E interface{ GetResultOmitted() bool }] struct {
	client  *Client
	news    func(ctx context.Context) iter.Seq2[[]E, error]
	endOf   func(end E) *ended
	look    func(ctx context.Context, id string) (*ended, error)
	readers chan struct{}

	mu    sync.Mutex
	begun bool
	sight *sight
}

// sight is a time of which no end is missed.
type sight struct {
	waits map[string]*awaited
	live  chan struct{} // closed once the stream is live
	lost  chan struct{} // closed when ends may have been missed
}

func newSight() *sight {
	return &sight{waits: map[string]*awaited{}, live: make(chan struct{}), lost: make(chan struct{})}
}

type awaited struct {
	id    string
	sight *sight
	end   *ended
	done  chan struct{}
}

func newWatcher[E interface{ GetResultOmitted() bool }](
	client *Client, news func(context.Context) iter.Seq2[[]E, error], endOf func(E) *ended,
	look func(context.Context, string) (*ended, error),
) *watcher[E] {
	return &watcher[E]{
		client: client, news: news, endOf: endOf, look: look, readers: make(chan struct{}, watchReaders), sight: newSight(),
	}
}

// expect registers what is about to be started under an id of its own, if the stream is live already.
func (w *watcher[E]) expect(id string) *awaited {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !isClosed(w.sight.live) {
		return nil
	}
	return w.sight.await(id)
}

// forget takes back what was expected.
func (w *watcher[E]) forget(expected *awaited) {
	if expected != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(expected.sight.waits, expected.id)
	}
}

func (w *watcher[E]) await(id string) *awaited {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.begun {
		w.begun = true
		go w.follow()
	}
	return w.sight.await(id)
}

func (s *sight) await(id string) *awaited {
	if s.waits[id] == nil {
		s.waits[id] = &awaited{id: id, sight: s, done: make(chan struct{})}
	}
	return s.waits[id]
}

// wait gives the end of what finally goes on in the place of an id.
func (w *watcher[E]) wait(ctx context.Context, id string, expected *awaited) (*ended, error) {
	for {
		end, err := w.waitOne(ctx, id, expected)
		if err == nil && end.next == "" && end.how != completed && end.how != purged {
			// It was too large to be told along; or it may have been begun anew since.
			end, err = w.read(ctx, id)
		}
		if err != nil || end != nil && end.next == "" {
			return end, err
		}
		if expected = nil; end != nil {
			id = end.next
		}
	}
}

func (w *watcher[E]) waitOne(ctx context.Context, id string, found *awaited) (*ended, error) {
	isCovered := found != nil
	if found == nil {
		found = w.await(id)
	}
	for {
		var live <-chan struct{}
		var late <-chan time.Time
		if !isCovered {
			live, late = found.sight.live, time.After(watchPatience)
		}
		select {
		case <-found.done:
			return found.end, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-w.client.ctx.Done():
			return nil, ErrClosed
		case <-found.sight.lost:
			found, isCovered = w.await(id), false
			continue
		case <-live:
		case <-late:
		}
		isCovered = isClosed(found.sight.live)
		if end, err := w.read(ctx, id); end != nil || err != nil {
			return end, err
		}
	}
}

// read looks, while not too many others do.
func (w *watcher[E]) read(ctx context.Context, id string) (*ended, error) {
	w.readers <- struct{}{}
	defer func() { <-w.readers }()
	return w.look(ctx, id)
}

func (w *watcher[E]) follow() {
	for attempt := 0; w.client.ctx.Err() == nil; attempt++ {
		for ends, err := range w.news(w.client.ctx) {
			if err == nil {
				attempt = 0
				w.receive(ends)
				continue
			}
			// Where it broke off is not known any more: what is waited for is read.
			w.mu.Lock()
			close(w.sight.lost)
			w.sight = newSight()
			w.mu.Unlock()
			sleep(w.client.ctx, backoff(attempt, err))
		}
	}
}

func (w *watcher[E]) receive(ends []E) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, each := range ends {
		end := w.endOf(each)
		if found := w.sight.waits[end.id]; found != nil {
			if each.GetResultOmitted() {
				end.how = ""
			}
			found.end = end
			close(found.done)
			delete(w.sight.waits, end.id)
		}
	}
	if !isClosed(w.sight.live) {
		close(w.sight.live)
	}
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
