package stepwell_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	stepwell "github.com/stepwell/stepwell/clients/go"
	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
	"github.com/stepwell/stepwell/clients/go/stepwelltest"
)

// exampleWorker runs a worker of a queue until the function that it gives is called.
func exampleWorker(client *stepwell.Client, queue string, register func(w *stepwell.Worker)) (stop func()) {
	worker := stepwell.NewWorker(client, stepwell.WorkerOptions{TaskQueues: []string{queue}})
	register(worker)
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(context.Background()) }()
	return func() {
		worker.Shutdown()
		if err := <-ended; err != nil {
			log.Fatal(err)
		}
	}
}

// A worker with a workflow and an activity, and a run of it.
func Example() {
	ctx := context.Background()
	client, err := stepwell.Dial(address)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	worker := stepwell.NewWorker(client, stepwell.WorkerOptions{})
	stepwell.RegisterActivity(worker, "say", func(_ context.Context, name string) (string, error) {
		return "Hello, " + name + "!", nil
	})
	stepwell.RegisterWorkflow(worker, "greet", func(w stepwell.Workflow, names []string) ([]string, error) {
		return stepwell.Map(w, names, func(w stepwell.Workflow, name string) (string, error) {
			return stepwell.Activity[string](w, "say", name)
		})
	})
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()

	run, err := client.StartRun(ctx, "greet", []string{"Ada", "Grace"}, stepwell.WithWorkflowID("greet-all"))
	if err != nil {
		log.Fatal(err)
	}
	var greetings []string
	if err := run.Result(ctx, &greetings); err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.Join(greetings, " "))

	worker.Shutdown()
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
	// Output: Hello, Ada! Hello, Grace!
}

// A checkpoint, a signal with a time limit, and a fact that a replay must not see changed.
func ExampleStep() {
	ctx := context.Background()
	client, err := stepwell.Dial(address)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	defer exampleWorker(client, "orders", func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "order", func(w stepwell.Workflow, article string) (string, error) {
			number, err := stepwell.Step(w, "reserve", func(context.Context) (int, error) {
				// Anything at all: a database, a service. It is not called again once its result is recorded.
				return 4711, nil
			}, stepwell.Retried(stepwell.RetryPolicy{MaximumAttempts: 3}))
			if err != nil {
				return "", err
			}
			payer, err := stepwell.WaitSignal[string](w, "paid", stepwell.WaitAtMost(time.Hour))
			if errors.Is(err, stepwell.ErrWaitTimeout) {
				return "nobody paid", nil
			}
			return fmt.Sprintf("%s %d for %s", article, number, payer), err
		})
	})()
	run, err := client.StartRun(ctx, "order", "lamp", stepwell.WithTaskQueue("orders"))
	if err != nil {
		log.Fatal(err)
	}
	if err := run.Signal(ctx, "paid", "Ada"); err != nil {
		log.Fatal(err)
	}
	var told string
	if err := run.Result(ctx, &told); err != nil {
		log.Fatal(err)
	}
	fmt.Println(told)
	// Output: lamp 4711 for Ada
}

// An activity without a run, started, waited for, and refused where one of its name is open.
func ExampleClient_StartJob() {
	ctx := context.Background()
	client, err := stepwell.Dial(address)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	letter := []stepwell.JobOption{
		stepwell.WithJobQueue("post"), stepwell.WithUniqueKey("letter-1"),
		stepwell.WithJobRetry(stepwell.RetryPolicy{MaximumAttempts: 5}),
		stepwell.WithJobTimeouts(stepwell.JobTimeouts{StartToClose: time.Minute, Heartbeat: 10 * time.Second}),
	}
	job, err := client.StartJob(ctx, "post", "soon", letter...)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.StartJob(ctx, "post", "soon", letter...); errors.Is(err, stepwell.ErrUniqueKeyInUse) {
		fmt.Println("it is under way already")
	}
	defer exampleWorker(client, "post", func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "post", func(ctx context.Context, text string) (int, error) {
			stepwell.Heartbeat(ctx, "stamped")
			return len(text), nil
		})
	})()
	var letters int
	if err := job.Result(ctx, &letters); err != nil {
		log.Fatal(err)
	}
	fmt.Println(letters)
	// Output:
	// it is under way already
	// 4
}

// An activity goes on from where the attempt before was.
func ExampleHeartbeatDetails() {
	ctx := context.Background()
	client, err := stepwell.Dial(address)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	defer exampleWorker(client, "copying", func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "copy", func(ctx context.Context, pages int) (string, error) {
			first := 0
			if _, err := stepwell.HeartbeatDetails(ctx, &first); err != nil {
				return "", err
			}
			for page := first; page < pages; page++ {
				if page == 2 && first == 0 {
					return "", &stepwell.ApplicationError{Message: "paper jam", RetryAfter: time.Millisecond}
				}
				stepwell.Heartbeat(ctx, page+1)
			}
			return fmt.Sprintf("went on after %d of %d", first, pages), ctx.Err()
		})
	})()
	job, err := client.StartJob(ctx, "copy", 5, stepwell.WithJobQueue("copying"))
	if err != nil {
		log.Fatal(err)
	}
	var told string
	if err := job.Result(ctx, &told); err != nil {
		log.Fatal(err)
	}
	fmt.Println(told)
	// Output: went on after 2 of 5
}

// A run that is asked to cancel hears of it where it waits, and cleans up.
func ExampleRun_Cancel() {
	ctx := context.Background()
	client, err := stepwell.Dial(address)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	waits := make(chan struct{})
	defer exampleWorker(client, "trips", func(w *stepwell.Worker) {
		stepwell.RegisterActivity(w, "unbook", func(_ context.Context, what string) (string, error) {
			fmt.Println("unbooked the", what)
			return what, nil
		})
		stepwell.RegisterWorkflow(w, "trip", func(w stepwell.Workflow, what string) (string, error) {
			close(waits)
			_, err := stepwell.WaitSignal[string](w, "paid")
			if errors.Is(err, stepwell.ErrRunCancelled) {
				if _, failed := stepwell.Activity[string](w, "unbook", what); failed != nil {
					return "", failed
				}
			}
			return what, err
		})
	})()
	run, err := client.StartRun(ctx, "trip", "hotel", stepwell.WithTaskQueue("trips"))
	if err != nil {
		log.Fatal(err)
	}
	<-waits
	if _, err := run.Cancel(ctx, "the weather"); err != nil {
		log.Fatal(err)
	}
	var ended *stepwell.RunError
	if err := run.Result(ctx, nil); errors.As(err, &ended) {
		fmt.Println(ended.Ended)
	}
	// Output:
	// unbooked the hotel
	// CANCELLED
}

// Days pass at once where a test moves the service's clock.
func ExampleWorkflow_Sleep() {
	ctx := context.Background()
	client, err := stepwell.Dial(address)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	defer exampleWorker(client, "bills", func(w *stepwell.Worker) {
		stepwell.RegisterWorkflow(w, "remind", func(w stepwell.Workflow, _ any) (string, error) {
			return "reminded", w.Sleep(14 * 24 * time.Hour)
		})
	})()
	run, err := client.StartRun(ctx, "remind", nil, stepwell.WithTaskQueue("bills"))
	if err != nil {
		log.Fatal(err)
	}
	for isAsleep := false; !isAsleep; {
		found, err := run.Describe(ctx)
		if err != nil {
			log.Fatal(err)
		}
		isAsleep = found.GetPhase() == pb.RunPhase_RUN_PHASE_SUSPENDED
	}
	if err := stepwelltest.Advance(ctx, client, 15*24*time.Hour); err != nil {
		log.Fatal(err)
	}
	var told string
	if err := run.Result(ctx, &told); err != nil {
		log.Fatal(err)
	}
	fmt.Println(told)
	// Output: reminded
}
