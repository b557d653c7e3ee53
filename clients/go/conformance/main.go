// Command conformance is the worker that the conformance kit tries Stepwell for Go by: a plain program of the SDK's, with
// the workflows and activities that docs/conformance.md asks of each language.
//
//	go build -o /tmp/conformance ./conformance
//	stepwell conformance -- /tmp/conformance
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	stepwell "github.com/stepwell/stepwell/clients/go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	options, err := readOptions()
	if err != nil {
		return err
	}
	client, err := stepwell.Dial(
		setting("STEPWELL_ADDRESS", "127.0.0.1:7233"), stepwell.WithNamespace(setting("STEPWELL_NAMESPACE", "main")),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	worker := stepwell.NewWorker(client, options)
	registerActivities(worker, os.Getenv("STEPWELL_LEDGER"))
	registerWorkflows(worker, os.Getenv("STEPWELL_VARIANT") == "changed")
	go func() {
		<-worker.Connected()
		fmt.Println("ready")
	}()
	return worker.Run(ctx)
}

func readOptions() (stepwell.WorkerOptions, error) {
	options := stepwell.WorkerOptions{TaskQueues: []string{setting("STEPWELL_TASK_QUEUE", "conformance")}}
	for name, into := range map[string]*int{
		"STEPWELL_MAX_ACTIVITIES": &options.MaxActivities,
		"STEPWELL_MAX_RUNS":       &options.MaxRuns,
		"STEPWELL_MAX_RESIDENT":   &options.MaxResidentRuns,
	} {
		number, err := strconv.Atoi(setting(name, "10"))
		if err != nil {
			return options, fmt.Errorf("%s: %w", name, err)
		}
		if number == 0 {
			// To the SDK zero is its default.
			number = -1
		}
		*into = number
	}
	return options, nil
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
