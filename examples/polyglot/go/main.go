// Command polyglot is the Go worker of the polyglot demo: it hashes files, all at once, and packs them.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	stepwell "github.com/stepwell/stepwell/clients/go"
)

const queue = "polyglot"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv("STEPWELL_ADDRESS")); err != nil {
		log.Fatal(err)
	}
}

// run works until the context ends.
func run(ctx context.Context, address string) error {
	flush, err := setUpTracing(ctx)
	if err != nil {
		return err
	}
	defer flush()
	client, err := stepwell.Dial(address)
	if err != nil {
		return err
	}
	defer client.Close()
	worker := stepwell.NewWorker(client, stepwell.WorkerOptions{TaskQueues: []string{queue}})
	stepwell.RegisterWorkflow(worker, "archive", archive)
	stepwell.RegisterActivity(worker, "digest", digest)
	stepwell.RegisterActivity(worker, "pack", pack)
	return worker.Run(ctx)
}
