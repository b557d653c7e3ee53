package stepwell

import (
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// RetryPolicy says when and how often to try again. The delay before attempt n+1 is
// min(MaximumInterval, InitialInterval * BackoffCoefficient^(n-1)).
type RetryPolicy struct {
	// InitialInterval is the delay before the second attempt. Default: 1 s.
	InitialInterval time.Duration
	// BackoffCoefficient is the factor from one delay to the next. Default: 2.
	BackoffCoefficient float64
	// MaximumInterval is the longest delay. Default: 100 times the initial one.
	MaximumInterval time.Duration
	// MaximumAttempts is how many there are in all. 0: no limit; 1: no retry.
	MaximumAttempts int
	// NonRetryableTypes are kinds of failure that are final.
	NonRetryableTypes []string
}

func (p RetryPolicy) spell() *pb.RetryPolicy {
	return &pb.RetryPolicy{
		InitialInterval:    durationOf(p.InitialInterval),
		BackoffCoefficient: p.BackoffCoefficient,
		MaximumInterval:    durationOf(p.MaximumInterval),
		MaximumAttempts:    int32(p.MaximumAttempts),
		NonRetryableTypes:  p.NonRetryableTypes,
	}
}

// delayAfter is the delay after an attempt, counted from 1.
func (p RetryPolicy) delayAfter(attempt int) time.Duration {
	first := orElse(p.InitialInterval, time.Second)
	factor := orElse(p.BackoffCoefficient, 2)
	most := orElse(p.MaximumInterval, 100*first)
	delay := float64(first) * math.Pow(factor, float64(attempt-1))
	return time.Duration(min(delay, float64(most)))
}

// isFinal tells whether there is no attempt after this one.
func (p RetryPolicy) isFinal(failure *pb.Failure, attempt int) bool {
	return p.MaximumAttempts > 0 && attempt >= p.MaximumAttempts || failure.GetNonRetryable() ||
		slices.Contains(p.NonRetryableTypes, failure.GetType())
}

// durationOf spells a duration, of which 0 says nothing.
func durationOf(duration time.Duration) *durationpb.Duration {
	if duration == 0 {
		return nil
	}
	return durationpb.New(duration)
}
