package main

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	stepwell "github.com/stepwell/stepwell/clients/go"
)

// order is what the workflow `publish` hands down.
type order struct {
	Source string   `json:"source"`
	Target string   `json:"target"`
	Names  []string `json:"names"`
	// Pause is for how many seconds packing rests after each file, so that there is a middle to be killed in.
	Pause float64 `json:"pause"`
}

type files struct {
	Folder string   `json:"folder"`
	Names  []string `json:"names"`
}

// packed says what came of packing. ResumedFrom is how many files an attempt before had packed by its own word.
type packed struct {
	Files       int `json:"files"`
	ResumedFrom int `json:"resumed_from"`
	Attempt     int `json:"attempt"`
}

type archived struct {
	// Bytes is how many all files have together.
	Bytes   int64             `json:"bytes"`
	Digests map[string]string `json:"digests"`
	Packed  packed            `json:"packed"`
}

// archive is a workflow: it has all files hashed, and packed.
func archive(w stepwell.Workflow, order order) (archived, error) {
	var result archived
	var err error
	result.Bytes, err = stepwell.Step(w, "weigh", func(ctx context.Context) (int64, error) {
		return weigh(ctx, order.Source, order.Names)
	})
	if err != nil {
		return result, err
	}
	result.Digests, err = stepwell.Activity[map[string]string](w, "digest", files{order.Source, order.Names})
	if err != nil {
		return result, err
	}
	again := stepwell.RetryPolicy{InitialInterval: 200 * time.Millisecond}
	result.Packed, err = stepwell.Activity[packed](
		w, "pack", order, stepwell.HeartbeatWithin(2*time.Second), stepwell.Retried(again),
	)
	return result, err
}

func weigh(ctx context.Context, folder string, names []string) (total int64, err error) {
	_, span := tracer.Start(ctx, "weigh")
	defer span.End()
	for _, name := range names {
		about, err := os.Stat(filepath.Join(folder, name))
		if err != nil {
			return 0, err
		}
		total += about.Size()
	}
	return total, nil
}

// digest is an activity: the SHA-256 of each file in hexadecimal digits, by name.
func digest(ctx context.Context, files files) (map[string]string, error) {
	sums := make([]string, len(files.Names))
	group, ctx := errgroup.WithContext(ctx)
	for place, name := range files.Names {
		group.Go(func() (err error) {
			sums[place], err = sum(ctx, filepath.Join(files.Folder, name))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	byName := make(map[string]string, len(sums))
	for place, name := range files.Names {
		byName[name] = sums[place]
	}
	return byName, nil
}

func sum(ctx context.Context, path string) (string, error) {
	_, span := tracer.Start(ctx, "hash", trace.WithAttributes(attribute.String("file", filepath.Base(path))))
	defer span.End()
	source, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer source.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, source); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// pack is an activity: it compresses each file, and goes on from where the attempt before had come to.
func pack(ctx context.Context, order order) (packed, error) {
	result := packed{Files: len(order.Names), Attempt: stepwell.InfoOf(ctx).Attempt}
	if _, err := stepwell.HeartbeatDetails(ctx, &result.ResumedFrom); err != nil {
		return result, err
	}
	for done := result.ResumedFrom; done < len(order.Names); {
		name := order.Names[done]
		if err := compress(filepath.Join(order.Source, name), filepath.Join(order.Target, name+".gz")); err != nil {
			return result, err
		}
		done++
		stepwell.Heartbeat(ctx, done)
		select {
		case <-time.After(time.Duration(order.Pause * float64(time.Second))):
		case <-ctx.Done():
			return result, context.Cause(ctx)
		}
	}
	return result, nil
}

// compress writes a file's compressed twin. A kill may leave half of one: who says that it is done says so afterwards.
func compress(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	writer := gzip.NewWriter(target)
	if _, err := io.Copy(writer, source); err != nil {
		return err
	}
	return writer.Close()
}
