package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	stepwell "github.com/stepwell/stepwell/clients/go"
)

// registerWorkflows knows the workflows; runs move between languages, so that the names of their steps are part of what
// docs/conformance.md asks.
func registerWorkflows(worker *stepwell.Worker, isChanged bool) {
	stepwell.RegisterWorkflow(worker, "steps", steps)
	stepwell.RegisterWorkflow(worker, "activities", activities)
	stepwell.RegisterWorkflow(worker, "waiter", waiter)
	stepwell.RegisterWorkflow(worker, "asked", asked)
	stepwell.RegisterWorkflow(worker, "cleaner", cleaner)
	stepwell.RegisterWorkflow(worker, "parent", parent)
	stepwell.RegisterWorkflow(worker, "sleeper", sleeper)
	stepwell.RegisterWorkflow(worker, "ordered", func(w stepwell.Workflow, _ any) (string, error) {
		return ordered(w, isChanged)
	})
	stepwell.RegisterWorkflow(worker, "errand", errand)
}

type countInput struct {
	Count int `json:"count"`
}

func steps(w stepwell.Workflow, told countInput) (int, error) {
	sum := 0
	for index := range told.Count {
		found, err := record(w, "step", index)
		if err != nil {
			return 0, err
		}
		sum += found
	}
	return sum, nil
}

type activitiesInput struct {
	Count int             `json:"count"`
	Type  string          `json:"type"`
	Input json.RawMessage `json:"input"`
}

func activities(w stepwell.Workflow, told activitiesInput) ([]json.RawMessage, error) {
	return stepwell.Map(w, make([]struct{}, told.Count), func(w stepwell.Workflow, _ struct{}) (json.RawMessage, error) {
		return stepwell.Activity[json.RawMessage](w, told.Type, told.Input)
	})
}

func waiter(w stepwell.Workflow, _ any) (json.RawMessage, error) {
	return stepwell.WaitSignal[json.RawMessage](w, "go")
}

func asked(w stepwell.Workflow, _ any) (string, error) {
	stepwell.HandleQuery(w, "state", func(any) (map[string]bool, error) {
		return map[string]bool{"waiting": true}, nil
	})
	_, err := stepwell.WaitSignal[any](w, "go")
	return "done", err
}

func cleaner(w stepwell.Workflow, _ any) (any, error) {
	_, err := stepwell.WaitSignal[any](w, "never")
	if errors.Is(err, stepwell.ErrRunCancelled) {
		if _, failed := stepwell.Activity[string](w, "echo", "cleaned"); failed != nil {
			return nil, failed
		}
	}
	return nil, err
}

func parent(w stepwell.Workflow, told countInput) (int, error) {
	return stepwell.Child[int](w, "steps", told)
}

type sleeperInput struct {
	Seconds float64 `json:"seconds"`
}

func sleeper(w stepwell.Workflow, told sleeperInput) (string, error) {
	return "slept", w.Sleep(seconds(told.Seconds))
}

func ordered(w stepwell.Workflow, isChanged bool) (string, error) {
	first := "first"
	if isChanged {
		first = "other"
	}
	if _, err := record(w, first, 1); err != nil {
		return "", err
	}
	if _, err := stepwell.WaitSignal[any](w, "go"); err != nil {
		return "", err
	}
	_, err := record(w, "second", 2)
	return "ordered", err
}

type errandInput struct {
	Key        string  `json:"key"`
	Activities int     `json:"activities"`
	Seconds    float64 `json:"seconds"`
}

// errand is a bit of everything, with effects outside.
func errand(w stepwell.Workflow, told errandInput) (int, error) {
	key, err := record(w, "begin", told.Key)
	if err != nil {
		return 0, err
	}
	inputs := make([]effectInput, told.Activities)
	for index := range inputs {
		inputs[index] = effectInput{Key: fmt.Sprintf("%s/%d", key, index), Seconds: told.Seconds}
	}
	keys, err := stepwell.Map(w, inputs, func(w stepwell.Workflow, input effectInput) (string, error) {
		return stepwell.Activity[string](w, "effect", input)
	})
	if err != nil {
		return 0, err
	}
	if err := w.Sleep(50 * time.Millisecond); err != nil {
		return 0, err
	}
	if _, err := stepwell.Child[int](w, "steps", countInput{Count: 3}); err != nil {
		return 0, err
	}
	return record(w, "end", len(keys))
}

// record has a local step return a value.
func record[V any](w stepwell.Workflow, name string, value V) (V, error) {
	return stepwell.Step(w, name, func(context.Context) (V, error) { return value, nil })
}
