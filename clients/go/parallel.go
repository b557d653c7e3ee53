package stepwell

import "errors"

// Parallel does several things at once, each in a branch of its own, with a Workflow of its own. It waits for all of
// them, also when one has failed, so that what it comes to does not depend on which was faster; then it gives a
// cancellation of the run, or else the error of the first in order that failed.
func Parallel(w Workflow, branches ...func(w Workflow) error) error {
	return w.x.together(w.s, len(branches), 0, false, func(place int, w Workflow) error {
		return branches[place](w)
	})
}

// Map does one thing for each item, each in a branch of its own, and gives the results in order. It fails as Parallel
// does. AtMost bounds how many go on at a time.
func Map[I, O any](w Workflow, items []I, function func(w Workflow, item I) (O, error), options ...StepOption) ([]O, error) {
	results := make([]O, len(items))
	limit := chosen("", options).limit
	err := w.x.together(w.s, len(items), limit, false, func(place int, w Workflow) (err error) {
		results[place], err = function(w, items[place])
		return err
	})
	return results, err
}

// Shield does something, in a branch of its own, that a request to cancel the run leaves alone: its activities are not
// asked to stop, and the cancellation is given after it has ended.
func (w Workflow) Shield(function func(w Workflow) error) error {
	return w.x.together(w.s, 1, 0, true, func(_ int, w Workflow) error { return function(w) })
}

// together runs branches, numbered by their place whenever they start, at most limit at a time (0: all).
func (x *execution) together(s *scope, count, limit int, shielded bool, begin func(place int, w Workflow) error) error {
	x.mustHold()
	s.mustBeFree("branches")
	first := s.branches + 1
	_ = s.branch(first) // panics here, where it fails the run, if they nest too deep
	s.branches += count
	s.busy = true
	defer func() { s.busy = false }()
	if limit <= 0 {
		limit = count
	}
	failures := make([]error, count)
	joined := &waiter{wake: make(chan struct{})}
	next, left := 0, count
	var fill func()
	run := func(place int, branch *scope) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.isDropped {
			return
		}
		failures[place] = errExited
		defer func() {
			if x.isDropped {
				return
			}
			x.closeScope(branch)
			left--
			fill()
			if left == 0 {
				x.wake(joined)
			}
			x.active--
			x.poke()
		}()
		_, failures[place] = guarded(func() (any, error) { return nil, begin(place, Workflow{x, branch}) })
	}
	fill = func() {
		for next < count && next-(count-left) < limit {
			branch := newScope(s.branch(first+next), s)
			if shielded {
				branch.shielded, branch.cancelSeen = true, true
			}
			x.scopes[branch.path] = branch
			x.record.open(branch)
			x.active++
			go run(next, branch)
			next++
		}
	}
	fill()
	if count > 0 {
		x.park(joined)
	}
	return worst(s, failures)
}

// worst is what all of it fails with: the run's cancellation, else the first in order.
func worst(s *scope, failures []error) error {
	var first error
	for _, err := range failures {
		if errors.Is(err, ErrRunCancelled) {
			s.cancelSeen = true
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// closeScope closes a branch that has returned; the service hears of it with the next Progress.
func (x *execution) closeScope(s *scope) {
	s.closed = true
	if s.count > 0 || len(s.recorded) > 0 {
		x.out.note(s)
	}
	delete(x.scopes, s.path)
}
