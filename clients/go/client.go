package stepwell

import (
	"context"
	"crypto/tls"
	"os"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "github.com/stepwell/stepwell/clients/go/stepwell/v1"
)

// version is the client's, which is the protocol's.
const version = "0.1.0"

const (
	messageBytes = 16 << 20
	connectTime  = 5 * time.Second
	// Calls go round all addresses. A stream needs one connection only: to any, drawn by lot.
	inTurn = `{"loadBalancingConfig": [{"round_robin": {}}]}`
	anyOne = `{"loadBalancingConfig": [{"pick_first": {"shuffleAddressList": true}}]}`
)

// reconnecting: a service that was away is found again within seconds, however long it was.
var reconnecting = grpc.ConnectParams{
	Backoff: grpcbackoff.Config{
		BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second,
	},
	MinConnectTimeout: connectTime,
}

// Client speaks with a service. It is safe for use by several goroutines.
type Client struct {
	options clientOptions
	target  string
	conn    *grpc.ClientConn
	// Runs and the fields below are the services' generated stubs, for what this package has no method of its own for.
	Runs pb.RunServiceClient
	// Jobs is the stub of JobService.
	Jobs pb.JobServiceClient
	// Workers is the stub of WorkerService.
	Workers pb.WorkerServiceClient
	// Namespaces is the stub of NamespaceService.
	Namespaces pb.NamespaceServiceClient
	// Schedules is the stub of ScheduleService.
	Schedules pb.ScheduleServiceClient
	// Clock is the stub of ClockService, for tests.
	Clock pb.ClockServiceClient

	starts  *coalescer[*pb.StartRunRequest, *pb.StartRunResponse]
	signals *coalescer[*pb.SignalRunRequest, *pb.SignalRunResponse]
	runEnds *watcher[*pb.WatchRunsResponse_End]

	jobStarts *coalescer[*pb.StartJobRequest, *pb.StartJobResponse]
	jobEnds   *watcher[*pb.WatchJobsResponse_End]

	ctx    context.Context
	cancel context.CancelFunc
}

type clientOptions struct {
	namespace   string
	apiKey      string
	tls         *tls.Config
	converter   Converter
	codec       Codec
	callTimeout time.Duration
	grpc        []grpc.DialOption
}

// Option is an option of Dial.
type Option func(*clientOptions)

// WithNamespace names the namespace in which all happens. Default: "main".
func WithNamespace(namespace string) Option {
	return func(o *clientOptions) { o.namespace = namespace }
}

// WithAPIKey gives the key of the caller. Default: that of the environment's STEPWELL_API_KEY.
func WithAPIKey(key string) Option { return func(o *clientOptions) { o.apiKey = key } }

// WithTLS encrypts. Default: nothing is encrypted.
func WithTLS(config *tls.Config) Option { return func(o *clientOptions) { o.tls = config } }

// WithConverter chooses how values are written. Default: as JSON.
func WithConverter(converter Converter) Option {
	return func(o *clientOptions) { o.converter = converter }
}

// WithCodec changes all payloads on their way, after they were converted.
func WithCodec(codec Codec) Option { return func(o *clientOptions) { o.codec = codec } }

// WithCallTimeout bounds a call and all its repeats. Default: 60 s. A context that ends earlier goes before.
func WithCallTimeout(timeout time.Duration) Option {
	return func(o *clientOptions) { o.callTimeout = timeout }
}

// WithGRPC adds options of the connection itself, such as interceptors.
func WithGRPC(options ...grpc.DialOption) Option {
	return func(o *clientOptions) { o.grpc = append(o.grpc, options...) }
}

// Dial makes a client of the service at an address, such as "127.0.0.1:7233" or "dns:///stepwell-headless:7233": of
// several addresses all are used in turn. It connects when it is first needed.
func Dial(target string, options ...Option) (*Client, error) {
	chosen := clientOptions{
		namespace:   "main",
		apiKey:      os.Getenv("STEPWELL_API_KEY"),
		converter:   jsonConverter{},
		callTimeout: time.Minute,
	}
	for _, option := range options {
		option(&chosen)
	}
	chosen.converter = encoded{chosen.converter, chosen.codec}
	client := &Client{options: chosen, target: target}
	conn, err := client.connect(inTurn)
	if err != nil {
		return nil, err
	}
	client.conn = conn
	client.ctx, client.cancel = context.WithCancel(context.Background())
	client.Runs = pb.NewRunServiceClient(conn)
	client.Jobs = pb.NewJobServiceClient(conn)
	client.Workers = pb.NewWorkerServiceClient(conn)
	client.Namespaces = pb.NewNamespaceServiceClient(conn)
	client.Schedules = pb.NewScheduleServiceClient(conn)
	client.Clock = pb.NewClockServiceClient(conn)
	client.coalesce()
	client.runEnds = newWatcher(client, client.runNews, endOfRun, client.waitForRun)
	client.jobEnds = newWatcher(client, client.jobNews, endOfJob, client.waitForJob)
	return client, nil
}

// coalesce has starts and signals of several goroutines go out together.
func (c *Client) coalesce() {
	namespace := c.options.namespace
	c.starts = newCoalescer(c, c.Runs.BatchStartRuns, func(requests []*pb.StartRunRequest) *pb.BatchStartRunsRequest {
		return &pb.BatchStartRunsRequest{Namespace: namespace, Requests: requests}
	}, (*pb.BatchStartRunsResponse).GetResults, (*pb.BatchStartRunsResponse_Result).GetStarted)
	c.signals = newCoalescer(c, c.Runs.BatchSignalRuns, func(requests []*pb.SignalRunRequest) *pb.BatchSignalRunsRequest {
		return &pb.BatchSignalRunsRequest{Namespace: namespace, Requests: requests}
	}, (*pb.BatchSignalRunsResponse).GetResults, (*pb.BatchSignalRunsResponse_Result).GetSignalled)
	c.jobStarts = newCoalescer(c, c.Jobs.BatchStartJobs, func(requests []*pb.StartJobRequest) *pb.BatchStartJobsRequest {
		return &pb.BatchStartJobsRequest{Namespace: namespace, Requests: requests}
	}, (*pb.BatchStartJobsResponse).GetResults, (*pb.BatchStartJobsResponse_Result).GetStarted)
}

// connect makes a connection of its own.
func (c *Client) connect(balancing string) (*grpc.ClientConn, error) {
	secret := insecure.NewCredentials()
	if c.options.tls != nil {
		secret = credentials.NewTLS(c.options.tls)
	}
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(secret),
		grpc.WithPerRPCCredentials(caller{c.options.apiKey}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytes), grpc.MaxCallSendMsgSize(messageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.WithConnectParams(reconnecting),
		grpc.WithDefaultServiceConfig(balancing),
		// gRPC's own retries know nothing of reasons.
		grpc.WithDisableRetry(),
		grpc.WithUserAgent("stepwell-go/" + version),
	}, c.options.grpc...)
	return grpc.NewClient(c.target, options...)
}

// Namespace is the one in which all happens.
func (c *Client) Namespace() string { return c.options.namespace }

// Close ends the connection. What is still waited for gives ErrClosed.
func (c *Client) Close() error {
	c.cancel()
	return c.conn.Close()
}
