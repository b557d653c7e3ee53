// Package stepwelltest starts a service for tests: with a Postgres of its own, and a clock that can be moved.
package stepwelltest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	stepwell "github.com/stepwell/stepwell/clients/go"
	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// ErrNotInstalled says that there is no stepwell-server to start: neither STEPWELL_SERVER names one nor is one on the
// PATH.
var ErrNotInstalled = errors.New("stepwell-server is not installed: pip install 'stepwell-server[embedded]', or name it by STEPWELL_SERVER")

const (
	startTime = time.Minute
	endTime   = 20 * time.Second
)

var announced = regexp.MustCompile(`serves on (\S+:\d+)`)

// Server is a running service.
type Server struct {
	// Address is where it serves, such as "127.0.0.1:40123".
	Address string

	process *exec.Cmd
	folder  string
}

// Start starts a service on a free port, in a folder of its own that Stop removes. Its clock stands under the tests'
// control: Advance moves it.
func Start(environment ...string) (*Server, error) {
	program := os.Getenv("STEPWELL_SERVER")
	if program == "" {
		found, err := exec.LookPath("stepwell-server")
		if err != nil {
			return nil, ErrNotInstalled
		}
		program = found
	}
	folder, err := os.MkdirTemp("", "stepwell-")
	if err != nil {
		return nil, err
	}
	// Postgres of root's runs as another account, which must be let in.
	if err := os.Chmod(folder, 0o755); err != nil {
		return nil, err
	}
	server := &Server{folder: folder}
	server.process = exec.Command(program, "dev", "--data-dir", folder+"/data", "--port", "0", "--test-clock")
	server.process.Env = append(os.Environ(), environment...)
	if err := server.begin(); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return server, nil
}

func (s *Server) begin() error {
	output, err := s.process.StdoutPipe()
	if err != nil {
		return err
	}
	s.process.Stderr = os.Stderr
	if os.Getenv("STEPWELL_SERVER_LOG") == "" {
		s.process.Stderr = nil
	}
	if err := s.process.Start(); err != nil {
		return err
	}
	told := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			if found := announced.FindStringSubmatch(lines.Text()); found != nil {
				told <- found[1]
				_, _ = io.Copy(io.Discard, output)
				return
			}
		}
		close(told)
	}()
	select {
	case address, ok := <-told:
		if !ok {
			return errors.New("stepwell-server ended before it served; STEPWELL_SERVER_LOG=1 shows what it says")
		}
		s.Address = address
		return nil
	case <-time.After(startTime):
		return fmt.Errorf("stepwell-server did not serve within %s", startTime)
	}
}

// Advance moves the service's clock forward, and with it all timers, timeouts and schedules.
func Advance(ctx context.Context, client *stepwell.Client, by time.Duration) error {
	_, err := client.Clock.AdvanceClock(ctx, &pb.AdvanceClockRequest{By: durationpb.New(by)})
	return err
}

// Stop ends the service and removes its folder. Safe to repeat.
func (s *Server) Stop() error {
	if s.process.Process != nil && s.process.ProcessState == nil {
		_ = s.process.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(endTime, func() { _ = s.process.Process.Kill() })
		_ = s.process.Wait()
		kill.Stop()
	}
	return os.RemoveAll(s.folder)
}
