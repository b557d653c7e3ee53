// Package stepwell is the Go client of Stepwell, a durable-workflow service.
//
// A program starts runs; workers keep a stream open and are pushed tasks; every step is recorded before it is
// acknowledged. A workflow is an ordinary function that takes a [Workflow]: what it does through that is recorded, and
// answered from the record when the run goes on elsewhere. An activity is an ordinary function that takes a
// [context.Context]. Activities are performed at least once, and recorded once.
//
//	client, err := stepwell.Dial("127.0.0.1:7233")
//	worker := stepwell.NewWorker(client, stepwell.WorkerOptions{})
//	stepwell.RegisterWorkflow(worker, "greet", func(w stepwell.Workflow, names []string) ([]string, error) {
//		return stepwell.Map(w, names, func(w stepwell.Workflow, name string) (string, error) {
//			return stepwell.Activity[string](w, "say", name)
//		})
//	})
//	stepwell.RegisterActivity(worker, "say", func(ctx context.Context, name string) (string, error) {
//		return "Hello, " + name + "!", nil
//	})
//	go worker.Run(ctx)
//	run, err := client.StartRun(ctx, "greet", []string{"Ada", "Grace"})
//	var greetings []string
//	err = run.Result(ctx, &greetings)
//
// Code between calls of a [Workflow] is free: nothing is replayed instruction by instruction. Within a branch the calls
// must come in the same order each time; the service notices if they do not, and pauses the run.
package stepwell
