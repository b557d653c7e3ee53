package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	stepwell "github.com/stepwell/stepwell/clients/go"
)

// crashBeats is how often the activity beat beats before it crashes.
const crashBeats = 3

func registerActivities(worker *stepwell.Worker, ledger string) {
	stepwell.RegisterActivity(worker, "echo", echo)
	stepwell.RegisterActivity(worker, "fail", fail)
	stepwell.RegisterActivity(worker, "flaky", flaky)
	stepwell.RegisterActivity(worker, "hold", hold)
	stepwell.RegisterActivity(worker, "beat", beat)
	stepwell.RegisterActivity(worker, "effect", func(ctx context.Context, told effectInput) (string, error) {
		return effect(ctx, told, ledger)
	})
}

func echo(_ context.Context, value json.RawMessage) (json.RawMessage, error) { return value, nil }

type failInput struct {
	Message      string `json:"message"`
	Kind         string `json:"kind"`
	NonRetryable bool   `json:"non_retryable"`
}

func fail(_ context.Context, told failInput) (any, error) {
	return nil, &stepwell.ApplicationError{Message: told.Message, Type: told.Kind, NonRetryable: told.NonRetryable}
}

type flakyInput struct {
	Failures int `json:"failures"`
}

func flaky(ctx context.Context, told flakyInput) (int, error) {
	attempt := stepwell.InfoOf(ctx).Attempt
	if attempt <= told.Failures {
		return 0, &stepwell.ApplicationError{Message: fmt.Sprintf("attempt %d fails", attempt), Type: "Flaky"}
	}
	return attempt, nil
}

type holdInput struct {
	Seconds float64 `json:"seconds"`
}

func hold(ctx context.Context, told holdInput) (string, error) {
	if err := pause(ctx, told.Seconds); err != nil {
		return "", err
	}
	return "held", nil
}

type beatInput struct {
	Seconds float64 `json:"seconds"`
	Every   float64 `json:"every"`
	Crash   bool    `json:"crash"`
}

type beatDetails struct {
	Beat int `json:"beat"`
}

type beatResult struct {
	ResumedFrom *int `json:"resumed_from"`
	Beats       int  `json:"beats"`
}

func beat(ctx context.Context, told beatInput) (beatResult, error) {
	var before beatDetails
	var result beatResult
	found, err := stepwell.HeartbeatDetails(ctx, &before)
	if err != nil {
		return result, err
	}
	if found {
		result.ResumedFrom = &before.Beat
	}
	result.Beats = before.Beat
	crashes := told.Crash && stepwell.InfoOf(ctx).Attempt == 1
	for end := time.Now().Add(seconds(told.Seconds)); time.Now().Before(end); {
		result.Beats++
		stepwell.Heartbeat(ctx, beatDetails{result.Beats})
		if crashes && result.Beats-before.Beat == crashBeats {
			return result, &stepwell.ApplicationError{Message: "told to crash", Type: "Crash"}
		}
		if err := pause(ctx, told.Every); err != nil {
			return result, err
		}
	}
	return result, nil
}

type effectInput struct {
	Key     string  `json:"key"`
	Seconds float64 `json:"seconds"`
}

// effect has an effect outside of Stepwell, a line of the ledger, and then takes a while to say so.
func effect(ctx context.Context, told effectInput, ledger string) (string, error) {
	if ledger != "" {
		if err := note(ledger, told.Key, stepwell.InfoOf(ctx).Attempt); err != nil {
			return "", err
		}
	}
	return told.Key, pause(ctx, told.Seconds)
}

type ledgerLine struct {
	Key      string  `json:"key"`
	Language string  `json:"language"`
	Process  int     `json:"pid"`
	Attempt  int     `json:"attempt"`
	Time     float64 `json:"time"`
}

// note appends a line by one write, so that lines of several processes do not mix.
func note(ledger, key string, attempt int) error {
	now := float64(time.Now().UnixNano()) / float64(time.Second)
	line, err := json.Marshal(ledgerLine{Key: key, Language: "go", Process: os.Getpid(), Attempt: attempt, Time: now})
	if err != nil {
		return err
	}
	file, err := os.OpenFile(ledger, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := file.Write(append(line, '\n')); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}

// pause waits, unless the activity is to stop: then it gives the cause.
func pause(ctx context.Context, of float64) error {
	select {
	case <-time.After(seconds(of)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func seconds(of float64) time.Duration { return time.Duration(of * float64(time.Second)) }
