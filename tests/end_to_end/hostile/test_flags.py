"""Flags that no command can follow: of wrong types, too large, contradictory, or unknown."""

import shlex

import pytest

pytestmark = pytest.mark.exhaustive

_LARGE = "99999999999999999999"
_TRAIN = "tf_dlrm.train --data_dir={random}"
_RANDOM = "tf_dlrm.train --data=random --random_train_rows=64 --random_evaluation_rows=32"
_MIRRORED = f"{_TRAIN} --distribution=mirrored"
_EVALUATE = "tf_dlrm.evaluate --model_dir={run}"
_SAVED = "tf_dlrm.evaluate --saved_model={saved}"
_EXPORT = "tf_dlrm.export --model_dir={run} --export_dir={out}"
_FOLD = "tf_dlrm.fold --base={saved} --increment={increment} --export_dir={out}"
_COMPARE = "tf_dlrm.compare --data_dir={random} --output_dir={out}"
_PLAN = "tf_dlrm.plan --tables=100,200"
_CRITEO = "tfrecords.convert_criteo --input={criteo.txt} --output_dir={out}"
_CONVERT = "tfrecords.convert --schema={clicks.toml} --input={clicks.csv} --output_dir={out}"
_BEAM = "tfrecords.convert_beam --schema={clicks.toml} --input={clicks.csv} --output_dir={out}"
_RATINGS = "tfrecords.leave_one_out --input={ratings.csv} --output_dir={out}"
_MAKE = "tfrecords.random --output_dir={out}"
_SYNTHETIC = "tfrecords.synthetic"
_EXAMPLES = "tfrecords.examples export --dataset={random} --output_dir={out}"
_SERVICE = "tfrecords.data_service dispatcher"
_REST = "serving.rest_client --data_dir={random}"
_GRPC = "serving.grpc_client --data_dir={random}"

# A command and one flag that it refuses, which the sentence names.
_ONE_FLAG = [
    *(f"{_TRAIN} --batch_size={v}" for v in ("x", "nan", "-1", "0", _LARGE, "''", "1e3", "½")),
    *(f"{_TRAIN} --embedding_learning_rate={v}" for v in ("nan", "inf", "-1", "0", "1e999", "''")),
    *(f"{_TRAIN} --dense_learning_rate={v}" for v in ("nan", "-inf", "0", "0.1.2")),
    *(f"{_TRAIN} --negative_weight={v}" for v in ("nan", "-1")),
    *(f"{_TRAIN} --epochs={v}" for v in ("0", "-3", "10000000000000", _LARGE)),
    *(f"{_TRAIN} --{n}=-1" for n in ("train_steps", "eval_steps", "eval_every_steps", "seed")),
    *(f"{_TRAIN} --{n}=0" for n in ("eval_batch_size", "keep_checkpoints", "embedding_dim")),
    *(f"{_TRAIN} --target_auc={v}" for v in ("2", "nan", "0.5")),
    *(f"{_TRAIN} --model_dir={{out}} --profile_steps={v}" for v in ("5", "3,1", "x,y", "-1,2")),
    f"{_TRAIN} --profile_steps=1,2",
    f"{_TRAIN} --checkpoint_every_steps=5",
    f"{_TRAIN} --seed={2**31}",
    f"{_TRAIN} --model=svm",
    *(f"{_TRAIN} --top_mlp={v}" for v in ("8,2", "''", "8,,x", "8,0,1", f"{_LARGE},1")),
    *(f"{_TRAIN} --bottom_mlp={v}" for v in ("8,5", "a,b", "0,16")),
    *(f"{_TRAIN} --dropout={v}" for v in ("1", "nan", "-0.1", "x")),
    *(f"{_TRAIN} --ensemble_size={v}" for v in ("0", "100000")),
    *(f"{_TRAIN} --prediction_clamp={v}" for v in ("0.5", "nan", "-1")),
    *(f"{_TRAIN} --shuffle_window_rows={v}" for v in ("0", _LARGE)),
    *(f"{_TRAIN} --embedding_initializer_scale={v}" for v in ("nan", "-1", "inf")),
    f"{_TRAIN} --model=dlrm --cross_layers=3",
    f"{_TRAIN} --model=dcn --interaction=concat",
    f"{_TRAIN} --hash_buckets=7 --table_storage=weighted_rows",
    f"{_TRAIN} --quotient_remainder_collisions=7",
    f"{_TRAIN} --first_projection=8",
    f"{_TRAIN} --embedding_optimizer=ftrl --warmup_steps=10",
    f"{_TRAIN} --decay_start_step=10",
    f"{_TRAIN} --embedding_initial_accumulator=1",
    f"{_TRAIN} --deterministic=perhaps",
    f"{_TRAIN} --kernels=cuda",
    f"{_TRAIN} --no_such_flag=1",
    f"{_TRAIN} --random_alpha=nan",
    *(f"{_RANDOM} --random_alpha={v}" for v in ("-1", "21", "nan")),
    *(f"{_RANDOM} --random_tables={v}" for v in ("0", "-5", "x", "''", _LARGE, "1.5")),
    *(f"{_RANDOM} --random_evaluation_rows={v}" for v in ("0", "-1", _LARGE)),
    *(f"{_RANDOM} --random_dense_features={v}" for v in ("-1", "100000")),
    f"{_RANDOM} --norandom_repeats --random_tables=3 --random_indices_per_lookup=9",
    f"{_RANDOM} --data_dir={{random}}",
    f"{_RANDOM} --synthetic_dir={{twin}}",
    *(
        f"{_TRAIN} --data_service={v}"
        for v in ("x", "grpc://", "grpc://localhost:1", "grpc://localhost:99999", "http://a:1")
    ),
    *(f"{_MIRRORED} --virtual_devices={v}" for v in ("-1", "1000", "x")),
    f"{_TRAIN} --virtual_devices=2",
    f"{_TRAIN} --distribution=tpu",
    f"{_TRAIN} --distribution=tpu --tpu=host --tpu_small_table_rows=-1",
    f"{_TRAIN} --communication_dtype=bfloat16",
    *(f"{_EVALUATE} --eval_batch_size={v}" for v in ("0", "-1", "x", _LARGE)),
    *(f"{_EVALUATE} --eval_steps={v}" for v in ("-1", _LARGE)),
    *(f"{_EVALUATE} --ranking_group_size={v}" for v in ("-1", "x")),
    *(f"{_EVALUATE} --print_predictions={v}" for v in ("-1", "x", _LARGE)),
    f"{_EVALUATE} --split=validation",
    f"{_EVALUATE} --checkpoint={{nothing}}",
    f"{_EVALUATE} --saved_model={{saved}}",
    f"{_EVALUATE} --against={{run}}",
    *(f"{_SAVED} --against={{run}} --max_difference={v}" for v in ("nan", "-1", "inf", "x")),
    f"{_SAVED} --against={{nothing}}",
    f"{_SAVED} --checkpoint={{nothing}}",
    *(f"{_EXPORT} --table_dtype={v}" for v in ("float64", "int2", "''")),
    *(f"{_EXPORT} --table_dtype=int8 --max_auc_loss={v}" for v in ("nan", "inf", "x")),
    f"{_EXPORT} --compute_dtype=float8",
    *(f"{_EXPORT} --candidate_features={v}" for v in ("nope", "dense")),
    f"{_EXPORT} --serve_raw",
    f"{_EXPORT} --checkpoint={{random}}",
    f"{_EXPORT} --incremental_from={{nothing}}",
    f"{_FOLD} --base={{nothing}}",
    f"{_FOLD} --increment={{nothing}}",
    f"{_FOLD} --export_dir={{saved}}",
    *(f"{_COMPARE} --models={v}" for v in ("svm", "''", "dlrm,dlrm")),
    *(f"{_COMPARE} --seeds={v}" for v in ("x", "-1", "0,0", "''")),
    *(f"{_COMPARE} --optimizers={v}" for v in ("adamw", "''", "sgd,sgd")),
    *(f"{_COMPARE} --learning_rates={v}" for v in ("nan", "0.1", "0.1,inf", "0.1,x", "0.1,-1")),
    f"{_COMPARE} --model=dcn",
    "tf_dlrm.compare --data_dir={random} --output_dir=",
    "tf_dlrm.compare --data_dir={random} --output_dir=s3://bucket/x",
    *(f"tf_dlrm.plan --tables={v}" for v in ("0", "-1", "x", "1.5", _LARGE, "9,,x")),
    *(f"{_PLAN} --devices={v}" for v in ("0", "-1", "x", "1000000000", "2,2", "''", _LARGE)),
    *(f"{_PLAN} --hotness={v}" for v in ("x", "1,2,3", "nan", "inf", "-1", "0")),
    *(f"{_PLAN} --embedding_dim={v}" for v in ("-1", "10000000", "x")),
    *(f"{_PLAN} --batch_size={v}" for v in ("0", "-1", _LARGE)),
    *(f"{_PLAN} --alpha={v}" for v in ("nan", "-1", "21", "inf")),
    *(
        f"{_PLAN} --pin={v}"
        for v in ("x", "T=row", "=row_wise", "nope=row_wise", "T0=table_wise:99")
    ),
    *(f"{_PLAN} --hardware={v}" for v in ("gpu", "{nothing}", "{noise.toml}", "{empty.toml}")),
    f"{_PLAN} --popular_first",
    f"{_PLAN} --bottom_mlp=8,4",
    f"{_PLAN} --picture_file={{out.png}}",
    f"{_PLAN} --output={{nothing}}/plan.json",
    f"{_PLAN} --output={{empty_folder}}",
    f"{_PLAN} --output=/dev/full",
    f"{_PLAN} --devices=2,4 --output={{out.json}}",
    f"{_PLAN} --devices=2,4 --picture_file={{empty_folder}}",
    f"{_PLAN} --devices=2,4 --picture_file=/dev/full",
    f"{_PLAN} --model=mlperf",
    *(f"tf_dlrm.launch --workers={v} --" for v in ("0", "-1", "x", "1000", _LARGE)),
    *(f"tf_dlrm.launch --parameter_servers={v} --" for v in ("-1", "1000", "x")),
    *(f"tf_dlrm.launch --grace_seconds={v} --" for v in ("nan", "-1", "inf", "x")),
    *(f"tf_dlrm.launch --module={v} --" for v in ("no.such", "../x", "''", "os.path.x")),
    "tf_dlrm.launch --max_restarts=5 --",
    "tf_dlrm.launch --threads_per_process=-1 --",
    "tf_dlrm.launch --threads_per_process=100000 --",
    *(f"{_CRITEO} --min_count={v}" for v in ("0", "-1", "x", _LARGE)),
    *(f"{_CRITEO} --split={v}" for v in ("x", "1.5", "0", "nan", "inf", "-0.1", "1", "last_week")),
    *(f"{_CRITEO} --memory_gb={v}" for v in ("nan", "-1", "0", "inf", "x")),
    *(f"{_CRITEO} --rows_per_record={v}" for v in ("0", "-1", _LARGE)),
    *(f"{_CRITEO} --keep_negatives={v}" for v in ("0", "nan", "2", "x")),
    *(f"{_CRITEO} --multi_hot={v}" for v in ("x", "1,2", "0", "-1", _LARGE)),
    f"{_CRITEO} --format=avazu",
    f"{_CRITEO} --days=0-6",
    f"{_CRITEO} --format=terabyte --days=x",
    f"{_CRITEO} --reference --min_count=3",
    f"{_CRITEO} --reference --vocabulary=train",
    f"{_CRITEO} --max_index_range=-1",
    f"{_CRITEO} --tuning --split=none",
    f"{_CRITEO} --shuffle=weekly",
    f"{_CRITEO} --on_bad_row=ignore",
    *(f"{_CONVERT} --schema={v}" for v in ("nope", "''", "{nothing}", "{empty_folder}")),
    *(f"{_CONVERT} --min_count={v}" for v in ("0", "x")),
    f"{_CONVERT} --label=click",
    f"{_CONVERT} --format=kaggle",
    *(f"{_RATINGS} --training_negatives={v}" for v in ("-1", "x", _LARGE)),
    *(f"{_RATINGS} --evaluation_negatives={v}" for v in ("0", "-1", "100000")),
    *(f"{_RATINGS} --passes={v}" for v in ("0", "x")),
    f"{_RATINGS} --seed=-1",
    *(f"{_MAKE} --rows={v}" for v in ("-1", "x", "nan", _LARGE)),
    *(f"{_MAKE} --rows=9 --max_vocabulary=0 --tables={v}" for v in ("0", "x", "''", "-1", _LARGE)),
    *(f"{_MAKE} --rows=9 --evaluation_rows=9 --alpha={v}" for v in ("nan", "-1", "inf")),
    *(f"{_MAKE} --dense_features={v}" for v in ("-1", "1000000")),
    *(f"{_MAKE} --indices_per_lookup={v}" for v in ("0", "-1", "x")),
    f"{_MAKE} --rows=9 --label=mine",
    f"{_MAKE} --rows=9 --norepeats --tables=3 --indices_per_lookup=9",
    *(
        f"{_SYNTHETIC} generate --distribution_file={{distances.txt}} --synthetic_file={{out}} "
        f"--length={v}"
        for v in ("0", "-1", "x", _LARGE)
    ),
    f"{_SYNTHETIC} profile --dataset={{random}} --distribution_file={{out}} --feature=nope",
    f"{_SYNTHETIC} profile --dataset={{random}} --distribution_dir={{out}} --split=nope",
    f"{_SYNTHETIC} profile --dataset={{random}} --distribution_dir={{out}} --minimum_of_new=2",
    f"{_SYNTHETIC} profile --dataset={{random}} --distribution_dir={{out}} --minimum_of_new=nan",
    f"{_SYNTHETIC} write --distribution_dir={{twin}} --output_dir={{out}} --rows=-1",
    f"{_SYNTHETIC} compare --trace_file={{trace.txt}} --trace_format=csv",
    *(f"{_EXAMPLES} --rows_per_file={v}" for v in ("0", "-1", "x")),
    *(f"tfrecords.inspect {{random}} --rows={v}" for v in ("-1", "x", _LARGE)),
    "tfrecords.inspect {random} --html={out.html} --html_accesses=0",
    *(f"{_SERVICE} --port={v}" for v in ("-1", "99999", "x", _LARGE)),
    *(
        f"tfrecords.data_service worker --port=0 --dispatcher={v}"
        for v in ("garbage", "localhost:1", ":", "localhost:99999", "''", "no host:5")
    ),
    "tfrecords.data_service worker --port=0 --dispatcher=localhost:1 --address=x",
    *(f"{_REST} --batch_size={v}" for v in ("0", "x")),
    *(f"{_REST} --timeout_seconds={v}" for v in ("0", "nan", "-1", "inf")),
    *(f"{_REST} --server={v}" for v in ("''", "localhost:1", "localhost:x", "localhost:99999")),
    f"{_REST} --version=-1",
    f"{_REST} --signature=rank",
    f"{_REST} --split=nope",
    f"{_GRPC} --requests=0",
    f"{_GRPC} --version=1 --label=a",
    f"{_BEAM} --records_per_file=0",
    f"{_BEAM} --memory_gb=1",
    f"{_BEAM} --no_such_option=1",
    f"{_BEAM} --format=kaggle",
    f"{_BEAM} --min_count=0",
]


@pytest.mark.parametrize("command", _ONE_FLAG)
def test_a_flag(refused, command):
    module, *arguments = shlex.split(command)
    last = [argument for argument in arguments if argument.startswith("--")][-1]
    if module == "tfrecords.convert_beam" and "records_per_file" not in last:
        pytest.importorskip("apache_beam")
    name, _, value = last.partition("=")
    # absl names a flag of a boolean without its "no"; of a file its path is enough.
    name = name.removeprefix("--no").removeprefix("--").removeprefix("random_")
    refused(module, *arguments, words=(name, value or name))


# A command that lacks something, or has something too many, and a word of the sentence.
_OTHERS = [
    ("tf_dlrm.train", "--data_dir is missing"),
    ("tf_dlrm.train {random}", "Unexpected argument"),
    (f"{_TRAIN} -- --batch_size=3", "--batch_size=3"),
    ("tf_dlrm.train --data=parquet --data_dir={parquet}", "--data_schema is missing"),
    ("tf_dlrm.train --data=synthetic", "--synthetic_dir is missing"),
    ("tf_dlrm.evaluate", "--model_dir"),
    ("tf_dlrm.evaluate {run}", "Unexpected argument"),
    ("tf_dlrm.export --model_dir={run}", "--export_dir is missing"),
    ("tf_dlrm.fold", "--base is missing"),
    ("tf_dlrm.plan", "--data_dir"),
    ("tf_dlrm.launch", "There is no --"),
    ("tf_dlrm.launch x -- --data=random", "Unexpected argument"),
    ("tfrecords.convert", "--input and --output_dir"),
    ("tfrecords.convert --input={clicks.csv} --output_dir={out}", "--schema is needed"),
    (f"{_CONVERT} more", "more"),
    ("tfrecords.convert_criteo --input={criteo.txt}", "--output_dir"),
    ("tfrecords.convert_criteo --input= --output_dir={out}", "--input"),
    (f"{_CRITEO} more", "more"),
    (f"{_CRITEO} --format=terabyte", "--split=last_day"),
    ("tfrecords.leave_one_out --output_dir={out}", "--input"),
    ("tfrecords.random", "output_dir"),
    (f"{_MAKE} more", "more"),
    ("tfrecords.synthetic", "Name one command"),
    ("tfrecords.synthetic invent", "Name one command"),
    ("tfrecords.synthetic profile", "--trace_file or --dataset"),
    ("tfrecords.synthetic write", "--distribution_dir"),
    ("tfrecords.synthetic compare --trace_file={trace.txt}", "--synthetic_file"),
    ("tfrecords.examples", "dataset"),
    ("tfrecords.examples turn --dataset={random} --output_dir={out}", "export|import"),
    ("tfrecords.inspect", "Name one data set folder"),
    ("tfrecords.inspect {random} {random}", "Name one data set folder"),
    ("tfrecords.data_service", "port"),
    ("tfrecords.data_service --port=0", "dispatcher|worker"),
    ("tfrecords.data_service worker --port=0", "--dispatcher"),
    ("serving.rest_client", "--data_dir and --inputs_file"),
    ("serving.grpc_client", "--data_dir and --inputs_file"),
    ("tfrecords.convert_beam", "needs Apache Beam|--input and --output_dir"),
]


@pytest.mark.parametrize(("command", "word"), _OTHERS)
def test_what_lacks_or_is_too_many(refused, command, word):
    module, *arguments = shlex.split(command)
    refused(module, *arguments, words=tuple(word.split("|")))
