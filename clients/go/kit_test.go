package stepwell_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	stepwell "github.com/stepwell/stepwell/clients/go"
	"github.com/stepwell/stepwell/clients/go/stepwelltest"
)

// address is the one of the service under test.
var address string

func TestMain(m *testing.M) {
	if os.Getenv("STEPWELL_TEST_WORKER") != "" {
		killable()
		return
	}
	server, err := stepwelltest.Start("STEPWELL_SESSION_SECONDS=4", "STEPWELL_HEARTBEAT_SECONDS=1", "STEPWELL_ACK_SECONDS=2")
	if errors.Is(err, stepwelltest.ErrNotInstalled) && os.Getenv("CI") == "" {
		fmt.Println("SKIPPED:", err)
		return
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	address = server.Address
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Println(err)
	}
	os.Exit(code)
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, options ...stepwell.Option) *stepwell.Client {
	t.Helper()
	return dialAt(t, address, options...)
}

func dialAt(t *testing.T, target string, options ...stepwell.Option) *stepwell.Client {
	t.Helper()
	client, err := stepwell.Dial(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// work runs a worker of a queue of the test's own until the test ends, or stop is called.
func work(t *testing.T, client *stepwell.Client, options stepwell.WorkerOptions, register func(w *stepwell.Worker)) (stop func()) {
	t.Helper()
	options.TaskQueues = []string{queueOf(t)}
	worker := stepwell.NewWorker(client, options)
	register(worker)
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(context.Background()) }()
	select {
	case <-worker.Connected():
	case err := <-ended:
		t.Fatalf("the worker ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the worker did not connect")
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			worker.Shutdown()
			if err := <-ended; err != nil {
				t.Errorf("the worker ended: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func queueOf(t *testing.T) string { return t.Name() }

func start(t *testing.T, client *stepwell.Client, workflow string, input any, options ...stepwell.StartOption) *stepwell.Run {
	t.Helper()
	run, err := client.StartRun(within(t), workflow, input, append(options, stepwell.WithTaskQueue(queueOf(t)))...)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func result[O any](t *testing.T, run *stepwell.Run) O {
	t.Helper()
	var value O
	if err := run.Result(within(t), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// soon waits until something holds.
func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("never came: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// link is a proxy that can be cut.
type link struct {
	listener net.Listener
	mu       sync.Mutex
	open     []net.Conn
}

func newLink(t *testing.T) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: listener}
	t.Cleanup(func() {
		_ = listener.Close()
		l.cut()
	})
	go l.serve()
	return l
}

func (l *link) address() string { return l.listener.Addr().String() }

func (l *link) serve() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", address)
		if err != nil {
			_ = near.Close()
			continue
		}
		l.mu.Lock()
		l.open = append(l.open, near, far)
		l.mu.Unlock()
		go func() { _, _ = io.Copy(near, far); _ = near.Close() }()
		go func() { _, _ = io.Copy(far, near); _ = far.Close() }()
	}
}

// cut ends all connections that are open; later ones are let through.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.open {
		_ = conn.Close()
	}
	l.open = nil
}
