package stepwell

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

const (
	watchPatience = 5 * time.Second
	watchReaders  = 32
)

// watcher hears of ends: one stream serves all waits of a client.
//
// A wait is registered first; then, unless the stream was live before the thing was started, that is read once. So an
// end is seen in one way or the other: it comes after the watch began, or the reading finds it.
type watcher struct {
	client  *Client
	source  source
	readers chan struct{}

	mu       sync.Mutex
	waits    map[string]*awaited
	follows  bool
	noStream bool
	isLive   bool
	live     chan struct{} // closed while the stream is live
	broken   chan struct{} // closed when ends may have been missed
	cursor   string
}

type awaited struct {
	id      string
	covered bool
	waiting int
	end     *ended
	done    chan struct{}
}

func newWatcher(client *Client, source source) *watcher {
	return &watcher{
		client: client, source: source, readers: make(chan struct{}, watchReaders),
		waits: map[string]*awaited{}, live: make(chan struct{}), broken: make(chan struct{}),
	}
}

// expect registers what is about to be started, if the stream is live already.
func (w *watcher) expect(id string) *awaited {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.isLive {
		return nil
	}
	found := w.register(id)
	found.covered = true
	return found
}

// forget takes back what was expected.
func (w *watcher) forget(expected *awaited) {
	if expected == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waits[expected.id] == expected && expected.waiting == 0 {
		delete(w.waits, expected.id)
	}
}

func (w *watcher) register(id string) *awaited {
	found := w.waits[id]
	if found == nil {
		found = &awaited{id: id, done: make(chan struct{})}
		w.waits[id] = found
	}
	return found
}

// wait gives the end of what finally goes on in the place of an id.
func (w *watcher) wait(ctx context.Context, id string, expected *awaited) (*ended, error) {
	for {
		end, err := w.waitOne(ctx, id, expected)
		if err == nil && end.omitted {
			end, err = w.source.wait(ctx, id)
		}
		if err != nil || end != nil && end.next == "" {
			return end, err
		}
		if end == nil {
			// It was opened again meanwhile.
			expected = nil
			continue
		}
		id, expected = end.next, nil
	}
}

func (w *watcher) waitOne(ctx context.Context, id string, expected *awaited) (*ended, error) {
	w.mu.Lock()
	found := expected
	if found == nil || found.end == nil && w.waits[id] != found {
		found = w.register(id)
	}
	found.waiting++
	if !w.follows {
		w.follows = true
		go w.followAll()
	}
	w.mu.Unlock()
	defer w.leave(found)
	for {
		w.mu.Lock()
		covered, noStream, live, broken := found.covered, w.noStream, w.live, w.broken
		w.mu.Unlock()
		if noStream {
			return w.poll(ctx, id)
		}
		if !covered {
			end, err := w.cover(ctx, found, live)
			if end != nil || err != nil {
				return end, err
			}
		}
		select {
		case <-found.done:
			return found.end, nil
		case <-broken:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-w.client.ctx.Done():
			return nil, ErrClosed
		}
	}
}

func (w *watcher) leave(found *awaited) {
	w.mu.Lock()
	defer w.mu.Unlock()
	found.waiting--
	if found.waiting == 0 && w.waits[found.id] == found {
		delete(w.waits, found.id)
	}
}

// cover reads it, once the stream is live; sooner too, if that takes long.
func (w *watcher) cover(ctx context.Context, found *awaited, live chan struct{}) (*ended, error) {
	timer := time.NewTimer(watchPatience)
	defer timer.Stop()
	select {
	case <-live:
	case <-timer.C:
	case <-found.done:
		return found.end, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-w.client.ctx.Done():
		return nil, ErrClosed
	}
	w.mu.Lock()
	wasLive, broken := w.isLive, w.broken
	w.mu.Unlock()
	w.readers <- struct{}{}
	end, err := w.source.look(ctx, found.id)
	<-w.readers
	if end != nil || err != nil {
		return end, err
	}
	w.mu.Lock()
	// What broke while it was read may have told of it.
	found.covered = wasLive && w.isLive && broken == w.broken
	w.mu.Unlock()
	return nil, nil
}

func (w *watcher) poll(ctx context.Context, id string) (*ended, error) {
	for {
		end, err := w.source.wait(ctx, id)
		if end != nil || err != nil {
			return end, err
		}
	}
}

func (w *watcher) followAll() {
	ctx := w.client.ctx
	for attempt := 0; ctx.Err() == nil; attempt++ {
		heard := false
		err := w.source.follow(ctx, w.cursor, func(ends []*ended, cursor string) {
			heard = true
			w.receive(ends, cursor)
		})
		if heard {
			attempt = 0
		}
		var failed *Error
		if errors.As(err, &failed) {
			switch failed.Code {
			case codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
				// Each wait is a call of its own then, and hears why itself.
				w.mu.Lock()
				w.noStream = true
				w.breakUp()
				w.mu.Unlock()
				return
			case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
			default:
				// The cursor may be at fault: begin from now, and read what is waited for.
				w.cursor = ""
			}
		}
		if w.cursor == "" {
			w.mu.Lock()
			w.breakUp()
			w.mu.Unlock()
		}
		sleep(ctx, backoff(attempt, err))
	}
}

// breakUp has all waits look for themselves again.
func (w *watcher) breakUp() {
	if w.isLive {
		w.isLive = false
		w.live = make(chan struct{})
	}
	for id, found := range w.waits {
		found.covered = false
		if found.waiting == 0 {
			delete(w.waits, id)
		}
	}
	close(w.broken)
	w.broken = make(chan struct{})
}

func (w *watcher) receive(ends []*ended, cursor string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, end := range ends {
		if found := w.waits[end.id]; found != nil && found.end == nil {
			found.end = end
			close(found.done)
			delete(w.waits, end.id)
		}
	}
	if cursor != "" {
		w.cursor = cursor
	}
	if !w.isLive {
		w.isLive = true
		close(w.live)
	}
}
