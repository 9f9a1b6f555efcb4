#!/bin/bash
# The trainings behind docs/choosing_a_loss.md. Each takes 6 to 12 minutes on two cores, all about
# seven hours; what was interrupted goes on when it is called again.
#
#   python tools/dataset_converters/to_coco.py PATH/TO/BCCD --out data/bccd --one-based --allow-skipped
#   DATA=data bash tools/study/study.sh losses_bccd           # one part, or several, or all of them
#
# DATA has the folders bccd, bloodcells, deeppcb and microcontroller, each with
# annotations/{train,val}.json and images/; docs/choosing_a_loss.md names their sources.
set -euo pipefail
cd "$(dirname "$0")/../.."

data=${DATA:-data}
out=${OUT:-work_dirs/study}
jobs=${JOBS:-2}
python=${PYTHON:-python}
weights=${WEIGHTS:-resnet18_imagenet_fp16.safetensors} # of microcontroller; not part of this project
small=configs/retinanet_r18_fpn_small.py
crop=configs/retinanet_r18_fpn_small_crop.py
imagenet=configs/retinanet_r18_fpn_small_imagenet.py

cls=model.bbox_head.loss_cls bbox=model.bbox_head.loss_bbox lr=optim_wrapper.optimizer.lr
ghmc="$cls="'{"_delete_": True, "type": "GHMC", "bins": 30, "momentum": 0.75, "use_sigmoid": True, "loss_weight": 1.0}'
ghmr="$bbox="'{"_delete_": True, "type": "GHMR", "mu": 0.02, "bins": 10, "momentum": 0.7, "loss_weight": 10.0}'
focal="$cls="'{"_delete_": True, "type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0}'
ce="$cls="'{"_delete_": True, "type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0}'
l1="$bbox="'{"_delete_": True, "type": "L1Loss", "loss_weight": 1.0}'
smooth_l1="$bbox="'{"_delete_": True, "type": "SmoothL1Loss", "beta": 0.11, "loss_weight": 1.0}'
# The best of lr_grid for each loss.
lr_ghm=1e-3 lr_focal=1e-3 lr_ce=3e-3
main=(--variant ghm "$ghmc" "$ghmr" $lr=$lr_ghm --variant focal "$focal" "$l1" $lr=$lr_focal --variant ce "$ce" "$l1" $lr=$lr_ce)

# compare NAME CONFIG DATA ARGUMENT...: the tables are in $out/NAME
compare() {
  local name=$1 config=$2 set=$3
  shift 3
  echo "== $name"
  "$python" tools/compare.py "$config" --data "${set%%_*}=$data/$set" --out "$out/$name" --jobs "$jobs" --threads 1 \
    "$@" --cfg-options train_dataloader.num_workers=0 train_dataloader.persistent_workers=False \
    val_dataloader.num_workers=0 val_dataloader.persistent_workers=False default_hooks.checkpoint.max_keep_ckpts=1
}

# reuse FOLDER: the same settings as ghm of losses_bccd need no runs of their own
reuse() {
  if [ -d "$out/losses_bccd/bccd/ghm" ] && [ ! -d "$out/$1" ]; then
    rm -rf "$out/$1.part"
    mkdir -p "$out/$1.part"
    cp -r "$out/losses_bccd/bccd/ghm/." "$out/$1.part"
    mv "$out/$1.part" "$out/$1"
  fi
}

lr_grid() {
  local variants=() rate
  for rate in 3e-4 1e-3 3e-3 1e-2; do
    variants+=(--variant "ghm lr=$rate" "$ghmc" "$ghmr" $lr=$rate)
    variants+=(--variant "focal lr=$rate" "$focal" "$l1" $lr=$rate --variant "ce lr=$rate" "$ce" "$l1" $lr=$rate)
  done
  compare lr_grid $small bccd "${variants[@]}" --seeds 1 --first-seed 100 --cfg-options train_cfg.max_iters=200 \
    train_cfg.val_interval=200 default_hooks.checkpoint.interval=200 default_hooks.checkpoint.save_best=None
}
losses_bccd() { compare losses_bccd $small bccd "${main[@]}" --seeds "${SEEDS:-5}"; }
losses_bloodcells() { compare losses_bloodcells $small bloodcells "${main[@]}"; }
losses_deeppcb() { compare losses_deeppcb $crop deeppcb "${main[@]}"; }
imagenet_microcontroller() {
  compare imagenet_microcontroller $imagenet microcontroller --variant ghm "$ghmc" "$ghmr" --variant focal "$focal" "$l1" \
    --cfg-options model.backbone.init_cfg.checkpoint="$weights"
}
shuffled_bccd() {
  [ -f "$data/bccd_shuffled/annotations/train.json" ] || "$python" tools/study/shuffle_labels.py "$data/bccd" "$data/bccd_shuffled" --share 0.2 --seed 0
  compare shuffled_bccd $small bccd_shuffled "${main[@]}"
}
mixed_bccd() {
  reuse mixed_bccd/bccd/ghm
  compare mixed_bccd $small bccd --variant ghm "$ghmc" "$ghmr" $lr=$lr_ghm \
    --variant focal_smooth "$focal" "$smooth_l1" $lr=$lr_focal --variant ghmc_l1 "$ghmc" "$l1" $lr=$lr_ghm
}
momentum_bccd() {
  reuse momentum_bccd/bccd/momentum_0.75
  compare momentum_bccd $small bccd --variant momentum_0.75 "$ghmc" "$ghmr" $lr=$lr_ghm \
    --variant momentum_0 "${ghmc/0.75/0}" "$ghmr" $lr=$lr_ghm \
    --variant momentum_0.9 "${ghmc/0.75/0.9}" "$ghmr" $lr=$lr_ghm
}
pooled_bccd() {
  compare pooled_bccd tools/study/pooled.py bccd --variant pooled $lr=$lr_ghm
}

parts=(lr_grid losses_bccd losses_bloodcells losses_deeppcb imagenet_microcontroller shuffled_bccd mixed_bccd
  momentum_bccd pooled_bccd)
failed=0 # a failed run does not hold up the parts after it; a signal does
for part in "${@:-${parts[@]}}"; do
  set +e
  (set -e && "$part")
  code=$?
  set -e
  [ $code -lt 128 ] || exit $code
  [ $code = 0 ] || failed=1
done
exit $failed
