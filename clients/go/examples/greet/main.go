// Command greet is a worker, a workflow, an activity and a program that starts a run, in one.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	stepwell "github.com/stepwell/stepwell/clients/go"
)

func say(_ context.Context, name string) (string, error) {
	return "Hello, " + name + "!", nil
}

func greet(w stepwell.Workflow, names []string) ([]string, error) {
	if err := w.Sleep(time.Second); err != nil {
		return nil, err
	}
	return stepwell.Map(w, names, func(w stepwell.Workflow, name string) (string, error) {
		return stepwell.Activity[string](w, "say", name)
	})
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	address := os.Getenv("STEPWELL_ADDRESS")
	if address == "" {
		address = "127.0.0.1:7233"
	}
	client, err := stepwell.Dial(address)
	if err != nil {
		return err
	}
	defer client.Close()
	worker := stepwell.NewWorker(client, stepwell.WorkerOptions{})
	stepwell.RegisterActivity(worker, "say", say)
	stepwell.RegisterWorkflow(worker, "greet", greet)
	working := make(chan error, 1)
	go func() { working <- worker.Run(ctx) }()
	started, err := client.StartRun(ctx, "greet", []string{"Ada", "Grace"})
	if err != nil {
		return err
	}
	var greetings []string
	if err := started.Result(ctx, &greetings); err != nil {
		return err
	}
	fmt.Println(greetings)
	worker.Shutdown()
	return <-working
}
